"""Where trials run: an executor starts them, and the runner watches them."""

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, redirect_stdout
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, Protocol

from retrace.errors import ParamsError, RetraceError
from retrace.pipeline import dvc_internals, overrides
from retrace.pipeline.origin import current_origin
from retrace.pipeline.overrides import Flat
from retrace.store import backend
from retrace.sweeps import repositories
from retrace.sweeps.definition import SweepSettings
from retrace.sweeps.results import Result
from retrace.sweeps.trial import TrialProcess
from retrace.tracking import dvc_process


class RunningTrial(Protocol):
    """A trial that runs, as the runner sees it. Its output is in `log` if it fails."""

    name: str
    log: Path
    step: int  # the last one
    is_measured: bool  # the stage with the curve has its results

    @property
    def is_over(self) -> bool: ...

    @property
    def seconds(self) -> float: ...

    def steps(self) -> Iterator[tuple[int, float]]:
        """Yield the steps since the last call, with the metric."""
        ...

    def prune(self, why: str) -> None:
        """End the trial, record why, and delete its checkpoints."""
        ...

    def stop(self) -> None:
        """End the trial so that it can resume from its last checkpoint."""
        ...

    def result(self) -> Result | None:
        """Return the result, with the experiment in this repository; None if it has none.

        Raises DataError if the experiment does not have the metric.
        """
        ...

    def reason(self) -> str:
        """Return why the trial failed, in one line."""
        ...


class Executor(Protocol):
    """Starts trials with the code and parameters of the sweep's start."""

    @property
    def n_slots(self) -> int:
        """How many trials can run at the same time."""
        ...

    def started(self, name: str, changes: Flat) -> AbstractContextManager[RunningTrial]:
        """Start the experiment `name`; at the end of the block, delete what it used."""
        ...


class LocalExecutor:
    """Runs `n_slots` trials on this machine, each in a repository of its own."""

    def __init__(self, sweep: SweepSettings, n_slots: int) -> None:
        self.sweep = sweep
        self.n_slots = n_slots
        self.origin = current_origin()
        self.cache = dvc_internals.cache().absolute()
        self.store = backend.address()

    @contextmanager
    def started(self, name: str, changes: Flat) -> Iterator[TrialProcess]:
        sweep = self.sweep.name
        objective = self.sweep.objective
        flags = [word for change in set_params(changes) for word in ("-S", change)]
        words = ("exp", "run", "--temp", "--name", name, *flags, *objective.targets)
        env = {"RETRACE_SWEEP": sweep, "MLFLOW_TRACKING_URI": self.store}
        with repositories.trial_repository(name, sweep, self.origin, self.cache) as tree:
            log = repositories.trial_log(sweep, name)
            yield TrialProcess(name, dvc_process.command(*words), env, tree, log, objective)


def set_params(changes: Flat) -> tuple[str, ...]:
    """Return changes to the params files in `-S` syntax."""
    return tuple(f"{key}={overrides.literal(value)}" for key, value in changes.items())


def opened_executor(
    sweep: SweepSettings, on: Literal["cluster"] | None, jobs: int | None, gpus: int
) -> AbstractContextManager[Executor]:
    """Return what runs the trials: this machine, or a cluster. Raises RetraceError if it cannot."""
    if on is None:
        if gpus:
            raise ParamsError("--gpus is of trials on a cluster: add --on cluster, or leave it out")
        return nullcontext(LocalExecutor(sweep, jobs or 1))
    if find_spec("ray") is None:
        remedy = "pip install 'retrace[sweep,cluster]'"
        raise RetraceError(f"--on {on}: ray is not installed; type {remedy}")
    return _cluster_executor(sweep, jobs, gpus)


@contextmanager
def _cluster_executor(sweep: SweepSettings, jobs: int | None, gpus: int) -> Iterator[Executor]:
    from retrace.cluster import ray_queue

    # Ray prints on stdout that a node died, even in the middle of a JSON document.
    with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere), ray_queue.connected():
        from retrace.sweeps.cluster_executor import ClusterExecutor  # imports Ray

        executor = ClusterExecutor(sweep, jobs, gpus)
        executor.check()
        yield executor
