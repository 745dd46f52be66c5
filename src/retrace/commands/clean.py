"""`retrace clean`: the checkpoints of trainings that did not end, listed or removed."""

from contextlib import suppress
from datetime import datetime
from pathlib import Path

import safetensors
from rich.filesize import decimal

from retrace import checkpoint, processes


def clean(*, force: bool) -> None:
    """Each training's checkpoints have a line; with `force` those that no process uses are gone."""
    folders, freed = checkpoint.every(), 0
    for folder in folders:
        size = _size(folder)
        with processes.alone(folder) as free:
            print(f"{folder.name[:8]}  {_said(folder)}, {decimal(size)}{'' if free else ', in use'}")
        freed += size if force and checkpoint.remove(folder) else 0
    if not folders:
        print("no checkpoints: no training was interrupted")
    elif force:
        print(f"removed: {decimal(freed)}")
    else:
        print("the same command again goes on from them; `retrace clean --force` removes those that are not in use")


def _said(folder: Path) -> str:
    """What the newest checkpoint is of."""
    try:
        latest = checkpoint.files(folder)[-1]
        facts, at = checkpoint.facts(latest), latest.stat().st_mtime
    except (OSError, IndexError, KeyError, ValueError, safetensors.SafetensorError):
        return "nothing that can be gone on from"
    saved = datetime.fromtimestamp(at).astimezone().strftime("%Y-%m-%d %H:%M")
    return f"{facts['of']}: step {facts['step']:,}, saved {saved}"


def _size(folder: Path) -> int:
    total = 0
    for path in folder.iterdir():
        with suppress(FileNotFoundError):  # while training takes the place of an old one
            total += path.stat().st_size
    return total
