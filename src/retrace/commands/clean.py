"""`retrace clean`: the checkpoints of trainings that did not end, listed or removed."""

import json
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import safetensors
from rich.filesize import decimal

from retrace import checkpoint, processes


def clean(*, force: bool, as_json: bool = False) -> None:
    """Each training's checkpoints have a line; with `force` those that no process uses are gone."""
    found = [_described(folder) for folder in checkpoint.every()]
    if not as_json:
        for each in found:
            print(_line(each))
    for each in found:
        each["removed"] = force and checkpoint.remove(Path(each["folder"]))
    if as_json:
        print(json.dumps({"trainings": found}, indent=2))
    elif not found:
        print("no checkpoints: no training was interrupted")
    elif force:
        print(f"removed: {decimal(sum(each['bytes'] for each in found if each['removed']))}")
    else:
        print("the same command again goes on from them; `retrace clean --force` removes those that are not in use")


def _described(folder: Path) -> dict[str, Any]:
    """What the newest checkpoint in `folder` is of, if it can be gone on from, and how much there is."""
    with processes.try_lock(folder) as free:
        known = {"folder": str(folder), "bytes": _size(folder), "in_use": not free}
    try:
        latest = checkpoint.in_folder(folder)[-1]
        facts, at = checkpoint.facts(latest), latest.stat().st_mtime
        of = {"of": facts["of"], "step": facts["step"]}
    except (OSError, IndexError, KeyError, ValueError, safetensors.SafetensorError):
        return known | {"of": None, "step": None, "saved": None}
    return known | of | {"saved": datetime.fromtimestamp(at).astimezone().isoformat("T", "seconds")}


def _line(each: dict[str, Any]) -> str:
    said = "nothing that can be gone on from"
    if each["saved"]:
        saved = datetime.fromisoformat(each["saved"]).strftime("%Y-%m-%d %H:%M")
        said = f"{each['of']}: step {each['step']:,}, saved {saved}"
    return f"{Path(each['folder']).name[:8]}  {said}, {decimal(each['bytes'])}{', in use' if each['in_use'] else ''}"


def _size(folder: Path) -> int:
    total = 0
    for path in folder.iterdir():
        with suppress(FileNotFoundError):  # while training takes the place of an old one
            total += path.stat().st_size
    return total
