"""A running trial: DVC's process, the stages below it, and their event logs."""

import ctypes
import os
import re
import shutil
import signal
import subprocess
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil

from retrace import checkpoint, event_log
from retrace.event_log import Event
from retrace.pipeline import dvc_cli, overrides
from retrace.pipeline.overrides import Flat
from retrace.sweeps import repositories, results
from retrace.sweeps.objective import Objective, own_name
from retrace.sweeps.results import Result
from retrace.system.redaction import redacted
from retrace.tracking import shell

ENDS_S = 60.0  # for a trial to end on SIGTERM, with its stage saved and uploaded
SAVES_S = 5.0  # for DVC to end after its stage
WRAPPER = "retrace.tracking.shell"  # a word of the process that tracks a stage's command
PR_SET_PDEATHSIG = 1
LIBC = ctypes.CDLL(None)


class TrialProcess:
    """DVC running the experiment `name`, with `changes` to the params files, in `tree`.

    It runs the stages that the objective needs, each tracked as below `retrace dvc`. Its output is
    in `log`.
    """

    def __init__(
        self, name: str, sweep: str, changes: Flat, tree: Path, store: str, objective: Objective
    ) -> None:
        self.name = name
        self.tree = tree
        self.objective = objective
        self.log = repositories.sweep_folder(sweep) / f"{name}.log"
        self.began = time.monotonic()
        self.since = time.strftime("%Y%m%dT%H%M%S")
        self.step = 0
        self.is_measured = False  # the stage with the curve has its results
        self._curve: str | None = None  # the event log that has the metric by step
        self._positions: dict[str, int] = {}
        self._points = defaultdict[str, list[tuple[int, float]]](list)  # not reported yet
        self._starts: dict[str, Event] = {}
        flags = [
            word
            for key, value in changes.items()
            for word in ("-S", f"{key}={overrides.literal(value)}")
        ]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [*_dvc(), "exp", "run", "--temp", "--name", name, *flags, *objective.targets],
                cwd=tree,
                env=_environment() | {"RETRACE_SWEEP": sweep, "MLFLOW_TRACKING_URI": store},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                # Ctrl-C then reaches only this process, which ends all children.
                start_new_session=True,
                preexec_fn=_die_with_us,  # noqa: PLW1509 - no other thread has a lock that it needs
            )

    @property
    def is_over(self) -> bool:
        return self.process.poll() is not None

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.began

    def steps(self) -> Iterator[tuple[int, float]]:
        """Yield the steps that a stage has logged since the last call, with the metric.

        The first stage counts that logs the metric at a step after 0. At step 0, many have a value
        that is no curve, such as that of a metrics file.
        """
        for path, start in self._event_logs():
            if self._curve in (None, path.name):
                self._read(path, start)
                points = self._points.pop(path.name, [])
                if points and points[-1][0] > 0:
                    self._curve = path.name
                    self.step = points[-1][0]
                    yield from points
                else:
                    self._points[path.name] = points

    def _read(self, path: Path, start: Event) -> None:
        """Read the new events of a stage; of steps that it logs again, the first value counts."""
        name = own_name(self.objective.metric, start["stage"])
        events: list[Event] = []
        with suppress(FileNotFoundError):  # being moved just now; the next call finds it
            position = self._positions.get(path.name, 0)
            events, self._positions[path.name] = event_log.read_from(path, position)
        points = self._points[path.name]
        for event in events:
            is_curve = self._curve == path.name or bool(points and points[-1][0] > 0)
            self.is_measured |= is_curve and event["kind"] in ("headline", "end")
            if event["kind"] == "metrics" and name in event["values"]:
                last = points[-1][0] if points else self.step if is_curve else -1
                if event["step"] > last:
                    points.append((event["step"], event["values"][name]))

    def prune(self, why: str) -> None:
        """End the trial, record why, and delete the checkpoints that it could resume from."""
        for path, _ in self._event_logs():
            if path.name == self._curve:
                tags = {"retrace.pruned": why}
                with suppress(FileNotFoundError):
                    event = {"kind": "tags", "time": event_log.now(), "values": tags}
                    event_log.append(path, event)
        self.stop()
        runs = {start["id"] for _, start in self._event_logs()}
        for folder in checkpoint.folders():
            with suppress(OSError, IndexError, KeyError, ValueError):
                if checkpoint.facts(checkpoint.in_folder(folder)[-1])["run"] in runs:
                    checkpoint.remove(folder)

    def stop(self) -> None:
        """End the trial so that it can resume from its last checkpoint.

        Only the commands of stages get a signal. What tracks them then ends by itself, once the
        event log has its end and is uploaded.
        """
        below = self._below()
        for process in below:
            with suppress(psutil.Error):
                if WRAPPER not in process.cmdline():
                    process.terminate()
        psutil.wait_procs(below, timeout=ENDS_S)
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(SAVES_S if self._starts else 0)
        self.process.kill()  # its stage, if it has one, ends by itself then
        self.process.wait()

    def _below(self) -> list[psutil.Process]:
        """Return the processes below DVC, without background uploaders, which have own sessions."""
        try:
            below = psutil.Process(self.process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []
        inside: list[psutil.Process] = []
        for process in below:
            with suppress(ProcessLookupError):
                if os.getsid(process.pid) == self.process.pid:
                    inside.append(process)
        return inside

    def result(self) -> Result | None:
        """Fetch the experiment and return its result; None if DVC ended without one.

        Raises DataError if the experiment does not have the metric.
        """
        if self.process.returncode != 0:
            return None
        commit = repositories.fetch(self.tree, self.name)
        return results.read_result(commit, self.objective) if commit else None

    def reason(self) -> str:
        """Return why the trial failed, in one line."""
        for path, _ in reversed(list(self._event_logs())):
            with suppress(FileNotFoundError):
                end = event_log.end_of(event_log.read(path))
                if end and end["status"] != "FINISHED":
                    return end.get("error", end["status"])
        printed = self.log.read_text(encoding="utf-8", errors="replace")
        lines = [
            line
            for line in printed.splitlines()
            if line.strip() and not re.match(r"WARNING|[>\s]", line)
        ]
        before = [line for line in lines if not line.startswith("ERROR")]
        return redacted((before or lines or [f"DVC exited with {self.process.returncode}"])[-1])[
            :300
        ]

    def _event_logs(self) -> Iterator[tuple[Path, Event]]:
        """Yield the event logs of its stages, oldest first, each with its first event."""
        folder = event_log.folder()
        logs = {
            path.name: path for path in [*folder.glob("*.jsonl"), *folder.glob("uploaded/*.jsonl")]
        }
        for name in sorted(name for name in logs if name >= self.since):
            if name not in self._starts:
                with suppress(FileNotFoundError):
                    begun = event_log.read(logs[name])[:1]
                    self._starts |= {name: begun[0]} if begun else {}
            start = self._starts.get(name, {})
            if start.get("experiment", {}).get("dvc.exp_name") == self.name:
                yield logs[name], start


def _dvc() -> list[str]:
    """Return the command of the DVC in PATH, which has the stages' environment, else of ours."""
    program = shutil.which("dvc")
    return [program] if program else dvc_cli.command()


def _environment() -> dict[str, str]:
    """Return an environment in which DVC tracks its stages."""
    tracked = shell.for_dvc()
    if shutil.which("dvc") is None:
        tracked["PATH"] = dvc_cli.environment()["PATH"]
    return {name: value for name, value in tracked.items() if name not in dvc_cli.OF_A_STAGE}


def _die_with_us() -> None:
    """Make this child, DVC, end with its parent; its stage then ends too."""
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
