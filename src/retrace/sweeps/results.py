"""A trial's result, from its DVC experiment, whether it ran or came from DVC's cache."""

import csv
import io
from dataclasses import dataclass
from pathlib import Path

from retrace import settings
from retrace.errors import DataError
from retrace.pipeline import hashing, lockfile, snapshot
from retrace.store import backend, experiments, sweep_runs
from retrace.system import machine


@dataclass(frozen=True)
class Result:
    """The metric of the kept weights, the metric by epoch, and the experiment's key."""

    value: float
    curve: dict[int, float]
    key: str


def read_result(commit: str, metric: str, cache: Path) -> Result:
    """Return the result of the experiment with this commit.

    Raises DataError if it does not have the metric.
    """
    state = snapshot.of_commit(commit)
    if state is None or metric not in state.metrics:
        reason = f"its {settings.METRICS} was not produced by its code and parameters"
        raise DataError(f"commit {commit[:10]}: {reason}")
    return Result(state.metrics[metric], _curve(state, metric, cache), state.key)


def add_to_sweep(dataset: str, sweep: str, key: str, at: int) -> None:
    """Make the trial's run a child of the sweep's run in MLflow.

    Create it if no stage of the trial ran.
    """
    client = backend.client()
    with backend.lock():
        experiment = backend.experiment_of(client, dataset)
        known = backend.first(client, [experiment], {"retrace.key": key})
    if known is None:
        experiments.add_missing(client)
    with backend.lock():
        if run := known or backend.first(client, [experiment], {"retrace.key": key}):
            sweep_runs.adopt(client, experiment, run.info.run_id, sweep, machine.user(), at)


def _curve(state: snapshot.Snapshot, metric: str, cache: Path) -> dict[int, float]:
    """Return the metric by epoch; empty if DVC's cache has no intact history."""
    md5 = lockfile.md5s(state.locked["train"].outs)[str(settings.HISTORY)]
    kept = hashing.object_path(cache / "files" / "md5", md5)
    if not kept.is_file() or hashing.md5(kept) != md5:
        return {}
    return {
        int(row["epoch"]): float(row[metric])
        for row in csv.DictReader(io.StringIO(kept.read_text(encoding="utf-8")))
    }
