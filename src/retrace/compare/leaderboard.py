"""Rank the experiments on a data set; those that differ only in their seed share one row.

A row has all runs with the same parameters, except `seed` and the settings of figures. If a seed
ran twice, for example after a code change, only its newest run counts. Unfinished runs never count.
"""

import gc
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from statistics import fmean, median, stdev
from typing import Any

from retrace import settings
from retrace.errors import RetraceError
from retrace.pipeline import grouping, metrics
from retrace.pipeline.workspace import Workspace
from retrace.store import backend, run_tags
from retrace.system import files
from retrace.system.redaction import redacted

WITHIN_ROW = ("seed", "figures.")  # prefixes of parameters that may differ within a row
IDS_PER_QUERY = 500
ALLOCATED = 1_000_000  # objects per garbage collection; with fewer, it takes most of the time


@dataclass(frozen=True)
class Row:
    """Runs that differ only in their seed, with the metric of each.

    It has the newest run of each seed, in the order in which the seeds first ran.
    """

    runs: Sequence[backend.Run]
    values: Sequence[float]
    train_s: float | None = None  # median, in seconds

    @property
    def mean(self) -> float:
        return fmean(self.values)

    @property
    def std(self) -> float | None:
        return stdev(self.values) if len(self.values) > 1 else None

    @property
    def newest(self) -> datetime:
        return datetime.fromtimestamp(max(run.info.start_time for run in self.runs) / 1000, UTC)

    def changes(self, here: Mapping[str, Any]) -> dict[str, str]:
        """Return the parameters that differ from params.yaml (`here`), both flat."""
        own = {
            key: value
            for key, value in self.runs[0].data.params.items()
            if not key.startswith(WITHIN_ROW)
        }
        return {
            key: value
            for key, value in own.items()
            if key != "dataset" and value != redacted(str(here.get(key)))
        }


@dataclass(frozen=True)
class Board:
    """The best of `n_rows` rows, the number of runs left out by reason, and params.yaml, flat."""

    dataset: str
    metric: str
    rows: Sequence[Row]
    n_rows: int
    left_out: Mapping[str, int]
    here: Mapping[str, Any]


def board(dataset: str | None, metric: str | None, top: int) -> Board:
    """Return the best `top` rows of the MLflow experiment `dataset`, by default the current one.

    `metric` is by default the setting `metrics.primary`. Raises RetraceError if there are no such
    runs, or if none has the metric.
    """
    if top < 1:
        raise RetraceError(f"--top is {top}; should be 1 or more")
    configured = settings.load(files.root())
    workspace = Workspace(Path())
    here = workspace.params(*workspace.pipeline.stages.values())
    dataset = dataset or grouping.mlflow_experiment(configured, here)
    metric = metric or (configured.metrics.primary if configured.metrics else "")
    with backend.mlflow_errors():
        client = _client()
        experiment = _experiment(client, dataset)
        parents = _parents(client, experiment)
        finished = [run for run in parents if run.info.status == "FINISHED"]
        rows = ranked(finished, metric)
        if not rows:
            problem = "is missing"
            if metric:
                problem = f"is {metric!r}, which no finished run on {dataset} has"
            raise RetraceError(f"--metric {problem}; {_metrics(finished)}")
        left_out = Counter(run.info.status for run in parents if run.info.status != "FINISHED")
        left_out |= Counter({f"without {metric}": sum(not _has(run, metric) for run in finished)})
        timed = _timed(client, experiment, rows[:top])
    return Board(dataset, metric, timed, len(rows), left_out, here)


def ranked(runs: Iterable[backend.Run], metric: str) -> list[Row]:
    """Return rows, best first, without runs whose metric is missing, NaN or infinite."""
    groups: defaultdict[tuple[tuple[str, str], ...], dict[str, backend.Run]] = defaultdict(dict)
    for run in sorted(runs, key=lambda run: run.info.start_time):
        if _has(run, metric):
            own = tuple(
                sorted((k, v) for k, v in run.data.params.items() if not k.startswith(WITHIN_ROW))
            )
            groups[own][run.data.params.get("seed", "")] = run
    rows = [
        Row([*group.values()], [run.data.metrics[metric] for run in group.values()])
        for group in groups.values()
    ]
    return sorted(rows, key=lambda row: row.mean, reverse=not metrics.is_minimized(metric))


def _has(run: backend.Run, metric: str) -> bool:
    return math.isfinite(run.data.metrics.get(metric, math.nan))


def _client() -> backend.MlflowClient:
    if backend.is_missing(backend.address()):
        advice = "`dvc repro` or `retrace sync` creates it"
        raise RetraceError(f"{redacted(backend.address())} does not exist; {advice}")
    return backend.client()


def _experiment(client: backend.MlflowClient, dataset: str) -> str:
    ids = {
        each.name: each.experiment_id
        for each in client.search_experiments()
        if each.name != "Default"
    }
    if dataset not in ids:
        known = (
            f"there are runs on {', '.join(sorted(ids))}"
            if ids
            else "there are no runs; `dvc repro` creates one"
        )
        raise RetraceError(f"{dataset}: MLflow has no run on this data set; {known}")
    return ids[dataset]


def _parents(client: backend.MlflowClient, experiment: str) -> list[backend.Run]:
    usual = gc.get_threshold()
    gc.set_threshold(ALLOCATED)
    try:
        return list(backend.search_runs(client, [experiment], "tags.`retrace.key` LIKE '%'"))
    finally:
        gc.set_threshold(*usual)


def _metrics(runs: Sequence[backend.Run]) -> str:
    names = sorted({name for run in runs for name in run.data.metrics})
    return (
        f"should be one of {', '.join(names)}"
        if names
        else "no run has finished; `mlflow ui` shows all runs"
    )


def _timed(client: backend.MlflowClient, experiment: str, rows: Sequence[Row]) -> list[Row]:
    """Add the training time to the rows, in seconds, from the runs of the stage train."""
    trained = [
        [run_tags.linked_run(run.data.tags, "train") or "" for run in row.runs] for row in rows
    ]
    ids = sorted({each for row in trained for each in row if each})
    seconds: dict[str, float] = {}
    for begin in range(0, len(ids), IDS_PER_QUERY):
        listed = ", ".join(f"'{each}'" for each in ids[begin : begin + IDS_PER_QUERY])
        stages = backend.search_runs(client, [experiment], f"attributes.run_id IN ({listed})")
        seconds |= {
            run.info.run_id: run.data.metrics["train_s"] for run in stages if _has(run, "train_s")
        }
    taken = [[seconds[each] for each in row if each in seconds] for row in trained]
    return [
        replace(row, train_s=median(own) if own else None)
        for row, own in zip(rows, taken, strict=True)
    ]
