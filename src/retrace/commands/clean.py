"""`retrace clean`: the checkpoints of trainings that did not end, listed or removed."""

from datetime import datetime
from pathlib import Path

from rich.filesize import decimal

from retrace import checkpoint, processes


def clean(*, force: bool) -> None:
    """Each training's checkpoints have a line; with `force` those that no process uses are gone."""
    folders, freed = checkpoint.every(), 0
    for folder in folders:
        with processes.alone(folder) as free:
            size = sum(path.stat().st_size for path in folder.iterdir())
            print(f"{folder.name[:8]}  {_said(folder)}, {decimal(size)}{'' if free else ', in use'}")
            if free and force:
                checkpoint.Checkpoints(folder).clear()
            freed += size if free else 0
    if not folders:
        print("no checkpoints: no training was interrupted")
    elif force:
        print(f"removed: {decimal(freed)}")
    else:
        print("the same command again goes on from them; `retrace clean --force` removes those that are not in use")


def _said(folder: Path) -> str:
    """What the newest checkpoint is of."""
    latest = checkpoint.files(folder)[-1]
    facts = checkpoint.facts(latest)
    saved = datetime.fromtimestamp(latest.stat().st_mtime).astimezone().strftime("%Y-%m-%d %H:%M")
    return f"{facts['of']}: step {facts['state']['step']:,}, saved {saved}"
