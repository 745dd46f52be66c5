"""What interrupted stages left: event logs to upload, checkpoints to resume."""

from collections.abc import Iterator

from retrace import checkpoint, event_log
from retrace.doctor.findings import Check, Finding, ok, warning
from retrace.system import processes
from retrace.system.text import count


def journals() -> Iterator[Finding]:
    """Check that MLflow has all event logs."""
    pending = event_log.pending(event_log.folder())
    over = [path for path in pending if event_log.is_over(path)]
    if over:
        finished = count(len(over), "finished stage")
        yield warning(f"events of {finished} are not in MLflow yet", "retrace sync")
    elif pending:
        yield ok(count(len(pending), "running stage"))


def checkpoints() -> Iterator[Finding]:
    """Check that no interrupted training waits to be resumed."""
    left = []
    for folder in checkpoint.folders():
        with processes.try_lock(folder) as free:
            left += [folder] if free else []
    if left:
        size = sum(file.stat().st_size for folder in left for file in folder.glob("*"))
        trainings = count(len(left), "interrupted training")
        state = f"checkpoints of {trainings}, {size / 1e6:,.1f} MB"
        remedy = "run the same commands to resume them; `retrace clean` lists them; to delete them:"
        yield warning(f"{state}; {remedy}", "retrace clean --force")


CHECKS: dict[str, Check] = {"journals": journals, "checkpoints": checkpoints}
