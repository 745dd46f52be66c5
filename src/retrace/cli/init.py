"""`retrace init`: show what is tracked in this repository, and write settings for it."""

from __future__ import annotations

import json
import tomllib
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from retrace import settings
from retrace.errors import DataError, ParamsError
from retrace.system import files

if TYPE_CHECKING:
    from retrace.pipeline.inventory import Inventory

GROUP = "run"
SUMMARY = "list what is tracked in this repository, and what is not: with --write, add settings"
EXAMPLES = (
    "retrace init            changes nothing",
    "retrace init --write    adds [tool.retrace] and lines of .gitignore",
)
IGNORE = Path(".gitignore")
MOST = 8  # entries shown of each kind


def add_arguments(parser: ArgumentParser) -> None:
    text = "add the settings to pyproject.toml or retrace.toml, and the lines to .gitignore"
    parser.add_argument("--write", action="store_true", help=text)


def run(args: Namespace) -> None:
    init(Path.cwd(), write=args.write)


def init(here: Path, *, write: bool = False) -> None:
    """Print the inventory of the repository that a folder is in; with `write`, add what it lacks.

    What is there already stays as it is. Raises DataError if there are no stages.
    """
    from retrace.pipeline import inventory as inventories
    from retrace.pipeline import loading
    from retrace.pipeline.workspace import Workspace

    root = loading.root(here)
    workspace = Workspace(root)
    if not workspace.pipeline.stages:
        raise DataError(f"{root}: no dvc.yaml with stages here; `dvc stage add` writes one")
    inventory = inventories.take(workspace)
    _print(inventory)
    changes = [*_settings(root, inventory), *_ignored(root)]
    for path, addition, _ in changes:
        verb = "added to" if write else "would be added to"
        print(f"\n{verb} {path.relative_to(root)}:\n")
        print("\n".join(f"    {line}".rstrip() for line in addition.strip().splitlines()))
    if not changes:
        print("\nthe settings and .gitignore have what retrace needs; nothing to write")
    elif write:
        for path, _, text in changes:
            with files.atomic(path) as unfinished:
                unfinished.write_text(text, encoding="utf-8")
    else:
        print("\nnothing is changed; `retrace init --write` writes this")


def _print(inventory: Inventory) -> None:
    from retrace.system.terminal import show, table

    rows = [(kind, str(len(entries)), _some(entries)) for kind, entries in inventory.kinds.items()]
    show(table(("tracked", "n", "which"), rows, numbers=(1,)))
    reasons: dict[str, list[str]] = {}
    for what, why in inventory.untracked:
        reasons.setdefault(why, []).append(what)
    if reasons:
        print()
        rows = [(_some(names), why) for why, names in reasons.items()]
        show(table(("not tracked, or in part", "why"), rows))


def _some(names: list[str]) -> str:
    return ", ".join(names[:MOST]) + (", ..." if len(names) > MOST else "")


def _settings(root: Path, inventory: Inventory) -> list[tuple[Path, str, str]]:
    """Return the file of the settings, what it lacks, and its new text; none if it has settings.

    Raises ParamsError if the settings that are there are not valid.
    """
    if settings.file(root):
        settings.load(root)
        return []
    pyproject = root / "pyproject.toml"
    path = pyproject if pyproject.is_file() else root / "retrace.toml"
    before = pyproject.read_text(encoding="utf-8") if path == pyproject else ""
    header = "[tool.retrace]\n" if path == pyproject else ""
    addition = header + _text(root, inventory)
    text = f"{before.rstrip()}\n\n{addition}" if before.strip() else addition
    try:
        tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ParamsError(f"{path.name}: nothing can be added to it: {error}") from None
    return [(path, addition, text)]


def _text(root: Path, inventory: Inventory) -> str:
    """Return the settings that need a decision, each with a comment."""
    primary = inventory.primary
    metric = f"metrics = {{ primary = {json.dumps(primary or 'NAME')} }}"
    lines = [
        '# Name of the MLflow experiment; "${key}" stands for the value of a parameter.',
        f"experiment = {json.dumps(root.name, ensure_ascii=False)}",
        "# Metric by which `retrace leaderboard` sorts; others are named with --metric.",
        metric if primary else f"# {metric}",
        "# Experiments that differ in one parameter only, as seeds or folds do, and how many there",
        "# are: one run more has the mean and the spread of their metrics.",
        '# groups = { over = "fold", of = "folds" }',
    ]
    return "\n".join(lines) + "\n"


def _ignored(root: Path) -> list[tuple[Path, str, str]]:
    """Return .gitignore with the lines that it lacks."""
    from retrace.pipeline import git_patch

    path = root / IGNORE
    before = path.read_text(encoding="utf-8") if path.is_file() else ""
    has = {line.strip().strip("/") for line in before.splitlines()}
    missing = [line for line in git_patch.WRITTEN_BY_US if line.strip("/") not in has]
    addition = "".join(f"{line}\n" for line in missing)
    separator = "" if not before or before.endswith("\n") else "\n"
    return [(path, addition, before + separator + addition)] if missing else []
