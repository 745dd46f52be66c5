"""Rank experiments by a metric; those that differ only in their seed share one row.

A row has all runs with the same parameters, except seeds (the setting `params.repeats`) and those
that only stages after the metric's stage read. If a seed ran twice, for example after a code
change, only its newest run counts. Unfinished runs never count.
"""

import gc
import math
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from statistics import fmean, median, stdev
from typing import Any

from retrace import settings
from retrace.errors import RetraceError
from retrace.pipeline import evaluation, grouping, metrics
from retrace.pipeline.workspace import Workspace
from retrace.store import backend, names, run_tags
from retrace.system import files
from retrace.system.redaction import redacted

IDS_PER_QUERY = 500
ALLOCATED = 1_000_000  # objects per garbage collection; with fewer, it takes most of the time


@dataclass(frozen=True)
class Row:
    """Runs that differ only in their seed, with the metric of each, and their other parameters.

    It has the newest run of each seed, in the order in which the seeds first ran.
    """

    runs: Sequence[backend.Run]
    values: Sequence[float]
    params: Mapping[str, str]
    seconds: float | None = None  # median of the time that training took

    @property
    def mean(self) -> float:
        return fmean(self.values)

    @property
    def std(self) -> float | None:
        return stdev(self.values) if len(self.values) > 1 else None

    @property
    def newest(self) -> datetime:
        return datetime.fromtimestamp(max(run.info.start_time for run in self.runs) / 1000, UTC)


@dataclass(frozen=True)
class Order:
    """By what experiments are ranked, and which of their parameters make no difference.

    These are `repeats`, the settings' names of seeds, and those for which `is_later` is true.
    """

    metric: str
    is_minimized: bool
    repeats: Collection[str] = ()
    is_later: Callable[[str], bool] = lambda _: False

    def is_repeat(self, param: str) -> bool:
        """Return whether a parameter is a seed, by its name or the last part of it."""
        return param in self.repeats or re.split("[.:]", param)[-1] in self.repeats


@dataclass(frozen=True)
class Board:
    """The best of `n_rows` rows, and the number of runs left out by reason.

    `here` has the parameters of the workspace, flat; `naming` those that name the MLflow
    experiment; `training` the stages whose time is shown.
    """

    experiment: str
    order: Order
    rows: Sequence[Row]
    n_rows: int
    left_out: Mapping[str, int]
    here: Mapping[str, Any]
    naming: Collection[str]
    training: Sequence[str]

    def changes(self, row: Row) -> dict[str, str]:
        """Return the parameters of a row that differ from those of the workspace."""
        return {
            key: value
            for key, value in row.params.items()
            if key not in self.naming and value != redacted(str(self.here.get(key)))
        }


def board(
    experiment: str | None, metric: str | None, top: int, *, is_minimized: bool | None = None
) -> Board:
    """Return the best `top` rows of the MLflow experiment, by default the current one.

    `metric` is by default the setting `metrics.primary`; its direction that of its name. Raises
    RetraceError if there are no such runs, or if none has the metric.
    """
    if top < 1:
        raise RetraceError(f"--top is {top}; should be 1 or more")
    configured = settings.load(files.root())
    workspace = Workspace(Path())
    here = workspace.params(*workspace.pipeline.stages.values())
    experiment = experiment or grouping.mlflow_experiment(configured, here)
    metric = metric or configured.metrics.primary or ""
    order = _order(workspace, configured, metric, is_minimized)
    training = workspace.pipeline.training
    with backend.mlflow_errors():
        client = _client()
        experiment_id = _experiment(client, experiment)
        parents = _parents(client, experiment_id)
        finished = [run for run in parents if run.info.status == "FINISHED"]
        rows = ranked(finished, order)
        if not rows:
            problem = "is missing"
            if metric:
                problem = f"is {metric!r}, which no finished run in {experiment} has"
            raise RetraceError(f"--metric {problem}; {_metrics(finished)}")
        left_out = Counter(run.info.status for run in parents if run.info.status != "FINISHED")
        left_out |= Counter({f"without {metric}": sum(not _has(run, metric) for run in finished)})
        timed = _timed(client, experiment_id, rows[:top], training)
    naming = grouping.REFERENCE.findall(configured.experiment or "")
    return Board(experiment, order, timed, len(rows), left_out, here, naming, training)


def _order(
    workspace: Workspace, configured: settings.Settings, metric: str, is_minimized: bool | None
) -> Order:
    name = names.decode(metric)
    if is_minimized is None:
        is_minimized = metrics.is_minimized(name, configured.metrics.minimize)
    stages = evaluation.stages_of(workspace, name)
    is_later = evaluation.is_later(workspace.pipeline, stages)
    return Order(metric, is_minimized, configured.params.repeats, is_later)


def ranked(runs: Sequence[backend.Run], order: Order) -> list[Row]:
    """Return rows, best first, without runs whose metric is missing, NaN or infinite."""
    groups: defaultdict[tuple[tuple[str, str], ...], dict[Any, backend.Run]] = defaultdict(dict)
    keys = dict.fromkeys(key for run in runs for key in run.data.params)
    seeds = list(filter(order.is_repeat, keys))
    left_out = {*seeds, *filter(order.is_later, keys)}
    for run in sorted(runs, key=lambda run: run.info.start_time):
        if _has(run, order.metric):
            params = run.data.params
            own = tuple(sorted((k, v) for k, v in params.items() if k not in left_out))
            groups[own][tuple(params.get(seed) for seed in seeds)] = run
    rows = [
        Row(
            runs=[*group.values()],
            values=[run.data.metrics[order.metric] for run in group.values()],
            params=dict(own),
        )
        for own, group in groups.items()
    ]
    return sorted(rows, key=lambda row: row.mean, reverse=not order.is_minimized)


def _has(run: backend.Run, metric: str) -> bool:
    return math.isfinite(run.data.metrics.get(metric, math.nan))


def _client() -> backend.MlflowClient:
    if backend.is_missing(backend.address()):
        advice = "`dvc repro` or `retrace sync` creates it"
        raise RetraceError(f"{redacted(backend.address())} does not exist; {advice}")
    return backend.client()


def _experiment(client: backend.MlflowClient, name: str) -> str:
    ids = {
        each.name: each.experiment_id
        for each in client.search_experiments()
        if each.name != "Default"
    }
    renamed = backend.find_experiment(client, name)
    if name not in ids and renamed and renamed.name in ids:
        name = renamed.name
    if name not in ids:
        known = (
            f"should be one of {', '.join(sorted(ids))}"
            if ids
            else "there is none yet; `retrace dvc repro` creates one"
        )
        raise RetraceError(f"{name}: MLflow has no such experiment; {known}")
    return ids[name]


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
        else "no run has finished; `retrace ui` shows all runs"
    )


def _timed(
    client: backend.MlflowClient, experiment: str, rows: Sequence[Row], stages: Sequence[str]
) -> list[Row]:
    """Add to the rows the seconds that these stages took, their own runs or cached ones."""
    trained = [[_stage_runs(run, stages) for run in row.runs] for row in rows]
    ids = sorted({each for row in trained for run in row for each in run if each})
    seconds: dict[str, float] = {}
    for begin in range(0, len(ids), IDS_PER_QUERY):
        listed = ", ".join(f"'{each}'" for each in ids[begin : begin + IDS_PER_QUERY])
        runs = backend.search_runs(client, [experiment], f"attributes.run_id IN ({listed})")
        seconds |= {run.info.run_id: _seconds(run) for run in runs}
    taken = [
        [sum(seconds[each] for each in run) for run in row if run and {*run} <= {*seconds}]
        for row in trained
    ]
    return [
        replace(row, seconds=median(own) if own else None)
        for row, own in zip(rows, taken, strict=True)
    ]


def _stage_runs(run: backend.Run, stages: Sequence[str]) -> list[str]:
    """Return the run of each of these stages; the cached one, if DVC took the result from there."""
    return [run_tags.linked_run(run.data.tags, stage) or "" for stage in stages]


def _seconds(run: backend.Run) -> float:
    """Return a stage's own metric `<stage>_s`, such as fit_s; else how long its run took."""
    own = f"{run.data.tags.get('retrace.stage')}_s"
    if _has(run, own):
        return run.data.metrics[own]
    return ((run.info.end_time or run.info.start_time) - run.info.start_time) / 1000
