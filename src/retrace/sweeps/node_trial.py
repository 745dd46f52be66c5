"""A trial on a node of a cluster: the process that it would be here, in a clone of its own."""

import os
import threading
import time
from pathlib import Path
from typing import NamedTuple

from retrace.cluster import scratch, task
from retrace.cluster.task import Task
from retrace.errors import RetraceError
from retrace.sweeps import results
from retrace.sweeps.objective import Objective
from retrace.sweeps.results import Result
from retrace.sweeps.trial import TrialProcess

POLL_S = 0.1
OUTPUT = 100_000  # bytes at the end of a failed trial's output that are sent

Points = list[tuple[int, float]]


class Progress(NamedTuple):
    """What a running trial has logged: all steps so far with the metric."""

    points: Points
    is_measured: bool


class Ended(NamedTuple):
    """How a trial ended."""

    result: Result | None = None
    error: str = ""  # why there is no result although DVC ended well, or did not start
    reason: str = ""  # why DVC failed
    output: bytes = b""  # of DVC, if it failed
    points: Points = []  # noqa: RUF012 - never changed


class NodeTrial:
    """Runs a task of a sweep. While `run` runs, the other methods are called in other threads."""

    def __init__(self, task: Task, objective: Objective) -> None:
        self.task = task
        self.objective = objective
        self.trial: TrialProcess | None = None
        self.points: Points = []
        self.is_stopped = False
        self.lock = threading.Lock()  # of the trial

    def run(self) -> Ended:
        """Run the trial to its end and push its experiment, unless the git remote has it."""
        try:
            with scratch.repository(self.task) as root:
                os.chdir(root)
                return self._run(root)
        except RetraceError as error:
            return Ended(error=str(error))

    def progress(self) -> Progress:
        """Return what the trial has logged so far."""
        with self.lock:
            if self.trial is None:
                return Progress([], is_measured=False)
            self.points += self.trial.steps()
            return Progress(self.points, self.trial.is_measured)

    def prune(self, why: str) -> None:
        """End the trial, record why, and delete its checkpoints."""
        self.is_stopped = True
        with self.lock:
            if self.trial:
                self.trial.prune(why)

    def stop(self) -> None:
        """End the trial so that it can resume from its last checkpoint."""
        self.is_stopped = True
        with self.lock:
            if self.trial:
                self.trial.stop()

    def _run(self, root: Path) -> Ended:
        commit = task.pushed(self.task, root)
        if commit is None:
            code = self._experiment(root)
            points = self.progress().points
            if code:
                return self._failed(points)
            commit = task.pushed(self.task, root)
        assert commit  # noqa: S101 - it was pushed
        return Ended(results.read_result(commit, self.objective), points=self.points)

    def _experiment(self, root: Path) -> int:
        """Run the experiment and push it; return the first exit code that is not 0."""
        log = root / ".retrace" / "trial.log"
        with self.lock:
            if self.is_stopped:
                return 1
            self.trial = TrialProcess(
                self.task.name,
                task.command(self.task),
                self.task.variables,
                root,
                log,
                self.objective,
            )
        while not self.trial.is_over:
            time.sleep(POLL_S)
        with log.open("ab") as output:
            return self.trial.process.returncode or task.push(self.task, root, output)

    def _failed(self, points: Points) -> Ended:
        if self.trial is None:
            return Ended()
        output = self.trial.log.read_bytes()[-OUTPUT:]
        return Ended(reason=self.trial.reason(), output=output, points=points)
