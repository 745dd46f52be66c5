"""One attempt at a stage whose commands are watched from outside: one event log.

DVC starts a process for each command of a stage. The first opens the event log, in the name of
DVC's process; each continues it; the last, or one that fails, ends it. If DVC is killed in between,
the background uploader of the first ends it.
"""

import signal
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from retrace import event_log
from retrace.errors import DataError
from retrace.event_log import EventLog
from retrace.pipeline import graph, identity
from retrace.system import processes
from retrace.tracking import stage
from retrace.tracking.command import Outcome
from retrace.tracking.uploader_client import Uploader

MOST_OF_A_LINE = 500  # characters of the line of stderr that explains a failure
DEADLY = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGKILL, signal.SIGTERM)


class Attempt:
    """A command of stage `name`, and the event log of the attempt that it belongs to.

    `dvc` is the process that runs the commands. Raises an exception if it cannot be tracked: a
    RetraceError, an OSError, or that of a defect.
    """

    def __init__(self, name: str, line: str, dvc: processes.Identity, *, only: str = "") -> None:
        self.name = name
        self.line = line
        self.dvc = dvc
        lines = commands(name, only)
        with ExitStack() as stack:
            stack.enter_context(stage.locked(name))
            path = _unfinished(name, dvc)
            n_before = _n_commands(path) if path else 0
            _check_order(name, lines, line, n_before)
            self.is_last = n_before + 1 >= len(lines)
            self.has_successor = stage.has_later_stage(name)
            self.log = EventLog.reopen(path) if path else self._opened()
            self._uploader = self._started() if self.is_last else None
            self._lock = stack.pop_all()

    @property
    def variables(self) -> dict[str, str]:
        """The environment by which `retrace.stage` in the command finds the event log."""
        return {stage.EVENT_LOG: str(self.log.path)}

    def end(self, outcome: Outcome) -> None:
        """Log how the command ended; end the attempt if it failed, or if it was the last one."""
        with self._lock:
            self._attach("logs/stdout.txt", outcome.stdout)
            self._attach("logs/stderr.txt", outcome.stderr)
            is_finished = outcome.exit_code == 0
            if is_finished and not self.is_last:
                self.log.command(self.line)
                return
            if is_finished:
                self.log.end("FINISHED", **stage.outputs(self.name))
            else:
                status, reason = _failure(outcome)
                self.log.end(status, error=reason)
            uploader = self._uploader or self._started()
            if (is_finished and self.has_successor) or not processes.alive(self.dvc):
                uploader.detach()
            else:
                uploader.wait()

    def _opened(self) -> EventLog:
        """Begin the event log; if other commands follow, with an uploader that waits for them."""
        log = stage.opened(self.name, process=self.dvc, is_wrapped=True)
        if not self.is_last:
            successor = self.has_successor
            Uploader(log.path, has_successor=successor, is_continued=True).detach()
        stage.attach_changes(log)
        return log

    def _started(self) -> Uploader:
        return Uploader(self.log.path, has_successor=self.has_successor)

    def _attach(self, name: str, text: str) -> None:
        """Attach what the command printed, below what earlier commands printed."""
        if text:
            earlier = event_log.copies(self.log.path) / name
            before = earlier.read_bytes() if earlier.exists() else b""
            self.log.attach(name, before + text.encode())


def commands(name: str, only: str = "") -> list[str]:
    """List the commands of a stage in the order in which DVC runs them.

    With `only`, list those in which these words occur. Raises DataError.
    """
    declared = graph.declared()
    if name not in declared:
        raise DataError(f"dvc.yaml: no stage {name}")
    declared_cmd: Any = declared[name].get("cmd", "")
    lines = declared_cmd if isinstance(declared_cmd, list) else str(declared_cmd).splitlines()
    return [line for line in map(str, lines) if only in line]


def _unfinished(name: str, dvc: processes.Identity) -> Path | None:
    """Return the event log that an earlier command of this attempt has left open, if one has."""
    for path in reversed(event_log.pending(event_log.folder())):
        if f"-{name}-" not in path.name:
            continue
        with suppress(FileNotFoundError, IndexError):  # uploaded just now; torn
            events = event_log.read(path)
            start = events[0]
            is_same = (start.get("process"), start.get("stage")) == (dvc, name)
            is_same &= start.get("experiment") == identity.dvc_experiment()
            if is_same and not event_log.end_of(events):
                return path
    return None


def _n_commands(path: Path) -> int:
    """Return how many commands of an attempt have ended."""
    return sum(event["kind"] == "command" for event in event_log.read(path))


def _check_order(name: str, lines: list[str], line: str, n_before: int) -> None:
    """Raise DataError if earlier commands have ended without being tracked.

    The attempt would never be complete then. Of a command with `${...}`, it is not known.
    """
    places = [index for index, each in enumerate(lines) if each == line]
    if places and n_before not in places:
        raise DataError(f"{name}: an earlier command of the stage was not tracked")


def _failure(outcome: Outcome) -> tuple[str, str]:
    """Return the status of a command that failed, and why.

    A shell reports a command that a signal killed by the exit code 128 + its number.
    """
    code = outcome.exit_code
    number = -code if code < 0 else code - 128
    is_killed = code < 0 or number in DEADLY
    reason = f"killed by {_signal_name(number)}" if is_killed else f"exit code {code}"
    printed = (outcome.stderr or outcome.stdout).split("\n")
    last = next((line.strip() for line in reversed(printed) if line.strip()), "")
    text = f"{reason}: {last[:MOST_OF_A_LINE]}" if last else reason
    return ("KILLED" if is_killed else "FAILED"), text


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal
        return f"signal {number}"
