"""One attempt at a stage whose commands are watched from outside: one event log.

DVC starts a process for each command of a stage. The first opens the event log, in the name of
DVC's process; each continues it; the last, or one that fails, ends it. If DVC is killed in between,
the background uploader of the first ends it.
"""

import signal
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from retrace import event_log
from retrace.errors import DataError
from retrace.event_log import EventLog
from retrace.pipeline import identity, loading
from retrace.pipeline.definition import Stage
from retrace.pipeline.workspace import Workspace
from retrace.system import files, processes
from retrace.tracking import (
    curves,
    header,
    left_behind,
    mlflow_variables,
    other_stores,
    results,
    stage,
)
from retrace.tracking.command import Outcome
from retrace.tracking.uploader_client import Uploader

MAX_REASON = 500  # characters of the line of stderr that explains a failure
FATAL = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGKILL, signal.SIGTERM)


class Attempt:
    """A command of a stage, and the event log of the attempt that it belongs to.

    `name` is DVC_STAGE, `dvc` the process that runs the commands. With `only`, commands without
    these words do not count. Raises an exception if the command cannot be tracked: a RetraceError,
    an OSError, or that of a defect.
    """

    def __init__(self, name: str, line: str, dvc: processes.Identity, *, only: str = "") -> None:
        self.workspace = Workspace(loading.root(Path.cwd()))
        pipeline = self.workspace.pipeline
        canonical = loading.canonical(name, processes.folder(dvc), self.workspace.root)
        self.stage = stage.declared(self.workspace, canonical)
        self.line = line
        self.dvc = dvc
        lines = [each for each in self.stage.commands if only in each]
        with ExitStack() as stack:
            stack.enter_context(stage.locked(self.stage.name))
            path = _unfinished(self.stage.name, dvc)
            n_before = _n_commands(path) if path else 0
            _check_order(self.stage.name, lines, line, n_before)
            self.is_last = n_before + 1 >= len(lines)
            self.has_successor = stage.has_later_stage(self.stage.name, pipeline)
            self.log = EventLog.reopen(path) if path else self._opened()
            self._uploader = self._started() if self.is_last else None
            self._lock = stack.pop_all()

    def variables(self) -> dict[str, str]:
        """Return the variables by which `retrace.stage` and MLflow in the command find their run.

        MLflow's server is started for them.
        """
        variables = {stage.EVENT_LOG: str(self.log.path)}
        with suppress(OSError):  # no server can be started
            variables |= mlflow_variables.variables(self.log.header, self.dvc, Path.cwd())
        return variables

    @contextmanager
    def following(self) -> Iterator[None]:
        """Log the curves in the stage's files as they grow."""
        with curves.follow(self.log, self._files(self.workspace, self.stage)):
            yield

    def end(self, outcome: Outcome) -> None:
        """Log how the command ended; end the attempt if it failed, or if it was the last one."""
        with self._lock:
            self._attach("logs/stdout.txt", outcome.stdout)
            self._attach("logs/stderr.txt", outcome.stderr)
            is_finished = outcome.exit_code == 0
            if is_finished and not self.is_last:
                self.log.command(self.line)
                return
            with self.log.recording("runs of other MLflow stores"):
                other_stores.log(self.log, self.workspace, self.stage)
            if is_finished:
                self._log_results()
            else:
                status, reason = _failure(outcome)
                hint = left_behind.hint(f"{outcome.stdout}\n{outcome.stderr}")
                if hint:
                    print(f"{self.stage.name}: {hint}", file=sys.stderr, flush=True)
                self.log.end(status, error=f"{reason}; {hint}" if hint else reason)
            uploader = self._uploader or self._started()
            if (is_finished and self.has_successor) or not processes.alive(self.dvc):
                uploader.detach()
            else:
                uploader.wait()

    def _log_results(self) -> None:
        """Log what the stage made. dvc.yaml is read again: DVCLive adds its plots to it."""
        workspace = Workspace(self.workspace.root)
        made_by = workspace.pipeline.stages.get(self.stage.name, self.stage)
        known = self._files(self.workspace, self.stage)
        new = [path for path in self._files(workspace, made_by) if path not in known]
        with self.log.recording("results"):
            curves.log_new(self.log, new)
            results.log(self.log, workspace, made_by)
        missing = [out.path for out in made_by.outs if results.is_missing(workspace, out)]
        if missing:
            names = ", ".join(missing)
            self.log.end("FAILED", error=f"exit code 0, but it did not make {names}")
        else:
            self.log.end("FINISHED", **header.outputs(self.log, workspace, made_by))

    def _files(self, workspace: Workspace, stage: Stage) -> list[Path]:
        return [workspace.root / path for path in results.files(workspace, stage)]

    def _opened(self) -> EventLog:
        """Begin the event log; if other commands follow, with an uploader that waits for them."""
        log = header.open_log(self.workspace, self.stage, process=self.dvc, is_wrapped=True)
        if not self.is_last:
            successor = self.has_successor
            Uploader(log.path, has_successor=successor, is_continued=True).detach()
        header.attach_changes(log, self.workspace)
        return log

    def _started(self) -> Uploader:
        return Uploader(self.log.path, has_successor=self.has_successor)

    def _attach(self, name: str, text: str) -> None:
        """Attach what the command printed, below what earlier commands printed."""
        if text:
            earlier = event_log.copies(self.log.path) / name
            before = earlier.read_bytes() if earlier.exists() else b""
            self.log.attach(name, before + text.encode())


def _unfinished(name: str, dvc: processes.Identity) -> Path | None:
    """Return the event log that an earlier command of this attempt has left open, if one has."""
    for path in reversed(event_log.pending(event_log.folder())):
        if f"-{files.file_name(name)}-" not in path.name:
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
    is_killed = code < 0 or number in FATAL
    reason = f"killed by {_signal_name(number)}" if is_killed else f"exit code {code}"
    printed = (outcome.stderr or outcome.stdout).split("\n")
    last = next((line.strip() for line in reversed(printed) if line.strip()), "")
    text = f"{reason}: {last[:MAX_REASON]}" if last else reason
    return ("KILLED" if is_killed else "FAILED"), text


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal
        return f"signal {number}"
