"""`retrace clean`: list the checkpoints of interrupted trainings, or remove them."""

import json
from argparse import ArgumentParser, Namespace
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from retrace.cli import arguments

GROUP = "repair"
SUMMARY = "list checkpoints of interrupted trainings, or remove them"
EXAMPLES = (
    "retrace clean            what can be resumed, with its size",
    "retrace clean --force    remove them",
)


def add_arguments(parser: ArgumentParser) -> None:
    arguments.add_json(parser)
    text = "remove the checkpoints that no process uses"
    parser.add_argument("--force", action="store_true", help=text)


def run(args: Namespace) -> None:
    clean(force=args.force, as_json=args.json)


def clean(*, force: bool, as_json: bool = False) -> None:
    """Print one line per training with checkpoints; with `force`, remove those not in use."""
    from rich.filesize import decimal

    from retrace import checkpoint

    trainings = [_description(folder) for folder in checkpoint.folders()]
    if not as_json:
        for training in trainings:
            print(_line(training))
    for training in trainings:
        training["removed"] = force and checkpoint.remove(Path(training["folder"]))
    if as_json:
        print(json.dumps({"trainings": trainings}, indent=2))
    elif not trainings:
        print("no checkpoints: no training was interrupted")
    elif force:
        n_bytes = sum(training["bytes"] for training in trainings if training["removed"])
        print(f"removed: {decimal(n_bytes)}")
    else:
        remedy = "run the same commands to resume them"
        print(f"{remedy}; `retrace clean --force` removes those not in use")


def _description(folder: Path) -> dict[str, Any]:
    """Return the size of `folder`, and what its newest readable checkpoint belongs to."""
    import safetensors

    from retrace import checkpoint
    from retrace.system import processes

    with processes.try_lock(folder) as free:
        known = {"folder": str(folder), "bytes": _size(folder), "in_use": not free}
    try:
        latest = checkpoint.in_folder(folder)[-1]
        facts = checkpoint.facts(latest)
        saved = (
            datetime.fromtimestamp(latest.stat().st_mtime).astimezone().isoformat("T", "seconds")
        )
        return known | {"training": facts["training"], "step": facts["step"], "saved": saved}
    except (OSError, IndexError, KeyError, ValueError, safetensors.SafetensorError):
        return known | {"training": None, "step": None, "saved": None}


def _line(training: dict[str, Any]) -> str:
    from rich.filesize import decimal

    state = "no usable checkpoint"
    if training["saved"]:
        saved = datetime.fromisoformat(training["saved"]).strftime("%Y-%m-%d %H:%M")
        state = f"{training['training']}: step {training['step']:,}, saved {saved}"
    in_use = ", in use" if training["in_use"] else ""
    return f"{Path(training['folder']).name[:8]}  {state}, {decimal(training['bytes'])}{in_use}"


def _size(folder: Path) -> int:
    total = 0
    for path in folder.iterdir():
        with suppress(FileNotFoundError):  # training replaces an old one
            total += path.stat().st_size
    return total
