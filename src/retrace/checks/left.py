"""What stages that did not end as they should have left to be gone on with."""

from collections.abc import Iterator
from pathlib import Path

from retrace import files, journal, processes, tracking
from retrace.checks.findings import Check, Finding, ok, warning

CHECKPOINTS = Path(".retrace/checkpoints")  # checkpoint.FOLDER, which takes an import of torch


def journals() -> Iterator[Finding]:
    """MLflow has all that stages did."""
    pending = journal.pending(tracking.folder())
    if over := [path for path in pending if journal.is_over(path)]:
        yield warning(f"MLflow lacks some of {len(over)} stages that are over", "retrace sync")
    elif pending:
        yield ok(f"{len(pending)} stages are at work")


def checkpoints() -> Iterator[Finding]:
    """No training was interrupted that did not go on."""
    left = []
    for folder in (files.root() / CHECKPOINTS).glob("*/"):
        with processes.try_lock(folder) as free:
            left += [folder] if free else []
    if left:
        size = sum(file.stat().st_size for folder in left for file in folder.glob("*"))
        said = f"{len(left)} trainings were interrupted, of {size / 1e6:,.1f} MB; the same commands again go on"
        yield warning(f"{said}, and this throws them away; `retrace clean` lists them", "retrace clean --force")


CHECKS: dict[str, Check] = {"journals": journals, "checkpoints": checkpoints}
