"""`retrace leaderboard`: the experiments on a data set, the best first; those that differ in their seed are one row.

A row is all that ran with the same parameters, but for `seed` and the settings of pictures. The same seed again, as
after a change of the code, counts once: its newest run. What did not finish counts nowhere.
"""

import gc
import json
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from statistics import fmean, median, stdev
from typing import Any

from retrace import params_file
from retrace.errors import RetraceError
from retrace.redaction import redacted
from retrace.terminal import plain, show, table
from retrace.tracking import store

UNCOUNTED = ("seed", "figures.")  # beginnings of parameters' names that do not tell one row from another
MINIMIZED = ("_loss", "_error", "_divergence", "_s")  # endings of metrics; all others are the better, the greater
TRAINED = ("retrace.cached.train", "retrace.run.train")  # tags of an experiment: the run that trained its network
ASKED = 500  # ids in a question
ALLOCATED = 1_000_000  # objects, before Python looks for garbage: of MLflow's many rows, that took most of the time


@dataclass(frozen=True)
class Row:
    """Runs that differ in their seed, with the metric of each; the newest run of each seed, oldest seed first."""

    runs: Sequence[store.Run]
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
        """Its parameters that are others than those of params.yaml `here`, flat."""
        own = {key: value for key, value in self.runs[0].data.params.items() if not key.startswith(UNCOUNTED)}
        return {key: value for key, value in own.items() if key != "dataset" and value != redacted(str(here.get(key)))}


@dataclass(frozen=True)
class Board:
    """The first of `n_rows` rows, how many runs are in none, by the reason, and params.yaml as it is here, flat."""

    dataset: str
    metric: str
    rows: Sequence[Row]
    n_rows: int
    left_out: Mapping[str, int]
    here: Mapping[str, Any]


@store.answering()
def lead(dataset: str | None, metric: str, top: int, *, as_json: bool) -> None:
    """Print the `top` rows by `metric`. Raises RetraceError where there are no such runs, and where nobody has the
    metric.
    """
    if top < 1:
        raise RetraceError(f"--top is {top}; should be 1 or more")
    values = params_file.read()
    dataset = dataset or str(values["dataset"])
    client = _client()
    experiment = _experiment(client, dataset)
    parents = _parents(client, experiment)
    finished = [run for run in parents if run.info.status == "FINISHED"]
    rows = ranked(finished, metric)
    if not rows:
        raise RetraceError(f"--metric is {metric!r}, which no finished run on {dataset} has; {_there(finished)}")
    left_out = Counter(run.info.status for run in parents if run.info.status != "FINISHED")
    left_out |= Counter({f"without {metric}": sum(not _has(run, metric) for run in finished)})
    shown = _timed(client, experiment, rows[:top])
    board = Board(dataset, metric, shown, len(rows), left_out, params_file.flatten(values))
    if as_json:
        print(json.dumps(_as_json(board), indent=2, allow_nan=False))
    else:
        _print(board)


def ranked(runs: Iterable[store.Run], metric: str) -> list[Row]:
    """The best first; a run without the metric, or with one that is no number, is in no row."""
    groups: defaultdict[tuple[tuple[str, str], ...], dict[str, store.Run]] = defaultdict(dict)
    for run in sorted(runs, key=lambda run: run.info.start_time):
        if _has(run, metric):
            own = tuple(sorted((k, v) for k, v in run.data.params.items() if not k.startswith(UNCOUNTED)))
            groups[own][run.data.params.get("seed", "")] = run
    rows = [Row([*group.values()], [run.data.metrics[metric] for run in group.values()]) for group in groups.values()]
    return sorted(rows, key=lambda row: row.mean, reverse=not is_minimized(metric))


def is_minimized(metric: str) -> bool:
    """Whether less is better, by the metric's name."""
    return metric.endswith(MINIMIZED)


def _has(run: store.Run, metric: str) -> bool:
    return math.isfinite(run.data.metrics.get(metric, math.nan))


def _client() -> store.MlflowClient:
    if store.is_missing(store.address()):
        raise RetraceError(f"{redacted(store.address())}: does not exist; `dvc repro` or `retrace sync` makes it")
    return store.client()


def _experiment(client: store.MlflowClient, dataset: str) -> str:
    there = {each.name: each.experiment_id for each in client.search_experiments() if each.name != "Default"}
    if dataset not in there:
        known = f"there are runs on {', '.join(sorted(there))}" if there else "there are no runs; `dvc repro` makes one"
        raise RetraceError(f"{dataset}: MLflow has no run on this data set; {known}")
    return there[dataset]


def _parents(client: store.MlflowClient, experiment: str) -> list[store.Run]:
    usual = gc.get_threshold()
    gc.set_threshold(ALLOCATED)
    try:
        return list(store.every(client, [experiment], "tags.`retrace.key` LIKE '%'"))
    finally:
        gc.set_threshold(*usual)


def _there(runs: Sequence[store.Run]) -> str:
    names = sorted({name for run in runs for name in run.data.metrics})
    return f"there are {', '.join(names)}" if names else "none is finished; `mlflow ui` shows what there is"


def _timed(client: store.MlflowClient, experiment: str, rows: Sequence[Row]) -> list[Row]:
    """The rows with the seconds that training took, which train's own runs have."""
    trained = [
        [next((run.data.tags[tag] for tag in TRAINED if tag in run.data.tags), "") for run in row.runs] for row in rows
    ]
    ids = sorted({each for row in trained for each in row if each})
    seconds: dict[str, float] = {}
    for begin in range(0, len(ids), ASKED):
        listed = ", ".join(f"'{each}'" for each in ids[begin : begin + ASKED])
        found = store.every(client, [experiment], f"attributes.run_id IN ({listed})")
        seconds |= {run.info.run_id: run.data.metrics["train_s"] for run in found if _has(run, "train_s")}
    taken = [[seconds[each] for each in row if each in seconds] for row in trained]
    return [replace(row, train_s=median(own) if own else None) for row, own in zip(rows, taken, strict=True)]


def _print(board: Board) -> None:
    top = ("", board.metric, "std", "least..most", "n", "training, s", "newest", "run", "not as in params.yaml")
    show(table(top, [_cells(rank, row, board.here) for rank, row in enumerate(board.rows, 1)], numbers=(0, 1, 2, 4, 5)))
    more = (
        f"; {board.n_rows - len(board.rows)} more rows: --top {board.n_rows}" if board.n_rows > len(board.rows) else ""
    )
    order = "least" if is_minimized(board.metric) else "greatest"
    print(f"\n{board.dataset}, by the mean of {plain(board.metric)} over n seeds, the {order} first{more}")
    if board.left_out:
        print("left out: " + ", ".join(f"{n} {plain(why)}" for why, n in sorted(board.left_out.items())))
    ids = [row.runs[-1].info.run_id[:8] for row in board.rows[:2]]
    print(f"side by side: retrace compare {' '.join(ids)}" if len(ids) > 1 else f"what made it: retrace trace {ids[0]}")


def _cells(rank: int, row: Row, here: Mapping[str, Any]) -> list[str]:
    spread = "" if row.std is None else f"{row.std:.2g}"
    span = f"{min(row.values):.6g}..{max(row.values):.6g}" if row.std is not None else ""
    seconds = "" if row.train_s is None else f"{row.train_s:.1f}"
    changes = ", ".join(f"{key}={value}" for key, value in row.changes(here).items())
    newest = f"{row.newest.astimezone():%Y-%m-%d}"
    run = row.runs[-1].info.run_id[:8]
    return [str(rank), f"{row.mean:.6g}", spread, span, str(len(row.runs)), seconds, newest, run, changes]


def _as_json(board: Board) -> dict[str, Any]:
    return {
        "dataset": board.dataset,
        "metric": board.metric,
        "better": "less" if is_minimized(board.metric) else "more",
        "n_rows": board.n_rows,
        "left_out": board.left_out,
        "rows": [
            {
                "mean": row.mean,
                "std": row.std,
                "least": min(row.values),
                "most": max(row.values),
                "train_s": row.train_s,
                "newest": row.newest.isoformat(),
                "runs": [
                    {"run_id": run.info.run_id, "seed": run.data.params.get("seed"), board.metric: value}
                    for run, value in zip(row.runs, row.values, strict=True)
                ],
                "params": {key: value for key, value in row.runs[-1].data.params.items() if key != "seed"},
                "changes": row.changes(board.here),
            }
            for row in board.rows
        ],
    }
