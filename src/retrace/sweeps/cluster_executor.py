"""Trials on a Ray cluster: an actor a trial, which Ray starts again where its node dies.

    ClusterTrial, here  ->  NodeTrial, an actor on a node  ->  DVC

The actors belong to the sweep's process and end with it.
"""

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError

from retrace.cluster import plan, ray_queue, ray_worker
from retrace.cluster.task import Task
from retrace.errors import DataError, RetraceError
from retrace.pipeline.overrides import Flat
from retrace.sweeps import repositories
from retrace.sweeps.definition import SweepSettings
from retrace.sweeps.executor import set_params
from retrace.sweeps.node_trial import Ended, NodeTrial, Progress
from retrace.sweeps.objective import Objective
from retrace.sweeps.results import Result

THREADS = 4  # of an actor: it answers while the trial runs
ALIVE_S = 10.0  # without an answer, after which an actor is not waited for


class _Actor(NodeTrial):
    """A trial's actor, in the environment in which its machine joined the cluster."""

    def run(self) -> Ended:
        joined = ray_worker.environment(self.task.gpus)
        for name in os.environ.keys() - joined.keys():
            if not name.startswith("RAY_"):  # Ray itself may read these
                del os.environ[name]
        os.environ.update(joined | self.task.variables)
        return super().run()


class ClusterTrial:
    """A trial that runs, or waits for a free slot, on a node."""

    def __init__(self, task: Task, objective: Objective, log: Path) -> None:
        self.task = task
        self.name = task.name
        self.log = log
        self.step = 0
        self.is_measured = False
        self._began = time.monotonic()
        self._answered = -ALIVE_S  # when the actor answered last
        self._last = -1  # the last step that was yielded
        self._actor: Any = (
            ray.remote(_Actor)
            .options(
                num_cpus=task.cpus,
                num_gpus=task.gpus,
                max_restarts=ray_worker.RETRIES,
                max_task_retries=ray_worker.RETRIES,
                max_concurrency=THREADS,
            )
            .remote(task, objective)
        )
        self._run: Any = self._actor.run.remote()
        self._progress: Any = self._actor.progress.remote()
        self._ended: Ended | None = None

    @property
    def is_over(self) -> bool:
        return self._ended is not None or _is_ready(self._run)

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._began

    def steps(self) -> Iterator[tuple[int, float]]:
        """Yield the steps since the last call, with the metric; of a repeated step, the first."""
        points: list[tuple[int, float]] = []
        if self.is_over:
            points = self._end().points
        elif _is_ready(self._progress):
            progress: Progress = self._get(self._progress)
            self._progress = self._actor.progress.remote()
            self._answered = time.monotonic()
            self.is_measured = progress.is_measured
            points = progress.points
        for step, value in points:
            if step > self._last:
                self._last = self.step = step
                yield step, value

    def prune(self, why: str) -> None:
        """End the trial, record why, and delete its checkpoints."""
        self._ended = Ended()
        with suppress(RayError):  # its node died just now
            pruned = self._actor.prune.options(max_task_retries=0).remote(why)
            ray.get(pruned, timeout=ray_worker.ENDS_S)
            self._ended = ray.get(self._run, timeout=ray_worker.ENDS_S)

    def stop(self) -> None:
        """Let the trial end so that it can resume from its last checkpoint; `close` waits."""
        self._actor.stop.remote()

    def close(self) -> None:
        """End the actor; before, wait for its trial if that is ending."""
        if time.monotonic() - self._answered < ALIVE_S:
            ray.wait([self._run], timeout=ray_worker.ENDS_S)
        ray.kill(self._actor)

    def result(self) -> Result | None:
        """Fetch the experiment and return its result; None if there is none.

        Raises DataError if the experiment does not have the metric, or cannot be run.
        """
        ended = self._end()
        if ended.error:
            raise DataError(ended.error)
        if ended.result:
            plan.fetch([self.task])
        return ended.result

    def reason(self) -> str:
        """Keep the output of a failed trial, and return why it failed, in one line."""
        ended = self._end()
        self.log.parent.mkdir(parents=True, exist_ok=True)
        self.log.write_bytes(ended.output)
        return ended.reason

    def _end(self) -> Ended:
        ended: Ended = self._ended if self._ended is not None else self._get(self._run)
        self._ended = ended
        return ended

    def _get(self, reference: Any) -> Any:
        """Return what the actor has returned. Raises RetraceError if Ray gave it up."""
        try:
            return ray.get(reference)
        except RayError as error:
            reason = " ".join(str(error).split())[:300]
            raise RetraceError(f"the cluster lost {self.name}: {reason}") from None


class ClusterExecutor:
    """Runs as many trials as the cluster has room for, at most `jobs` if given."""

    def __init__(self, sweep: SweepSettings, jobs: int | None, gpus: int) -> None:
        self.sweep = sweep
        self.jobs = jobs
        (task,) = plan.make_tasks([], sweep.objective.targets, sweep.name, gpus=gpus)
        self.task = replace(task, variables=task.variables | {"RETRACE_SWEEP": sweep.name})

    @property
    def n_slots(self) -> int:
        """How many trials can run at the same time, on the nodes that are alive now."""
        task = self.task
        slots = sum(
            min(machine["cpus"] // task.cpus, machine["gpus"] // task.gpus)
            if task.gpus
            else machine["cpus"] // task.cpus
            for machine in ray_queue.machines()
        )
        return slots if self.jobs is None else min(slots, self.jobs)

    def check(self) -> None:
        """Print what all machines must share. Raises RetraceError if trials cannot run on them."""
        machines = ray_queue.machines()
        most = max(machine["gpus"] for machine in machines)
        if not 0 <= self.task.gpus <= most:
            allowed = f"should be 0 to {most}, the most GPUs of a machine"
            raise RetraceError(f"--gpus is {self.task.gpus}; {allowed}")
        if len({machine["host"] for machine in machines}) > 1:
            for note in plan.check_reach(self.task):
                print(f"note: {note}", file=sys.stderr)

    @contextmanager
    def started(self, name: str, changes: Flat) -> Iterator[ClusterTrial]:
        """Start a trial; at the end of the block, end it."""
        task = replace(self.task, name=name, overrides=set_params(changes))
        log = repositories.trial_log(self.sweep.name, name)
        trial = ClusterTrial(task, self.sweep.objective, log)
        try:
            yield trial
        finally:
            trial.close()


def _is_ready(reference: Any) -> bool:
    return bool(ray.wait([reference], timeout=0)[0])
