"""`retrace leaderboard`: which runs are one row, which are left out, and the order."""

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import pytest
from mlflow import MlflowClient
from mlflow.entities import Metric, Param

from lab import params
from retrace.cli import leaderboard
from retrace.errors import RetraceError
from retrace.pipeline import params_yaml
from retrace.store import groups

DAY_MS = 86_400_000
START_MS = 1_800_000_000_000


class Store:
    """A store of invented experiments on MNIST, each a day younger than the one before."""

    def __init__(self, database: Path) -> None:
        self.client = MlflowClient(f"sqlite:///{database}")
        self.experiment = self.client.create_experiment("mnist")
        self.values = params_yaml.read()
        self.n = 0

    def add(
        self, status: str = "FINISHED", metrics: dict[str, float] | None = None, **changed: Any
    ) -> str:
        """Add an experiment with these parameters `changed` and return its run's id."""
        self.n += 1
        run = self._run({"retrace.key": str(self.n)}, status, START_MS + self.n * DAY_MS)
        chosen = [
            Param(name, str(value)) for name, value in params.chosen(self.values | changed).items()
        ]
        self.client.log_batch(
            run, [Metric(name, value, 0, 0) for name, value in (metrics or {}).items()], chosen
        )
        return run

    def add_training(self, parent: str, seconds: float, tag: str = "retrace.run.train") -> None:
        """Add a run of train to an experiment, its own or a cached one."""
        run = self._run(
            {"mlflow.parentRunId": parent, "retrace.stage": "train"}, "FINISHED", START_MS
        )
        self.client.log_metric(run, "train_s", seconds)
        self.client.set_tag(parent, tag, run)

    def _run(self, tags: dict[str, str], status: str, start: int) -> str:
        run = self.client.create_run(self.experiment, start, tags).info.run_id
        self.client.set_terminated(run, status)
        return run


@pytest.fixture
def store(folder: Path, empty_store: Path) -> Store:
    shutil.copy(empty_store, folder / "mlflow.db")
    return Store(folder / "mlflow.db")


@pytest.fixture
def board(capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """Return a function that returns the leaderboard as JSON."""

    def load(metric: str = "test_accuracy", top: int = 20) -> Any:
        capsys.readouterr()
        leaderboard.lead(None, metric, top, as_json=True)
        return json.loads(capsys.readouterr().out)

    return load


def refused(dataset: str | None = None, metric: str = "test_accuracy", top: int = 20) -> str:
    """Return the one line with which a leaderboard is refused."""
    with pytest.raises(RetraceError) as error:
        leaderboard.lead(dataset, metric, top, as_json=False)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_seeds_are_one_row(store: Store, board: Callable[..., Any]) -> None:
    alike = [
        store.add(seed=seed, metrics={"test_accuracy": 0.9 + seed / 100}) for seed in (0, 1, 2)
    ]
    other = store.add(lr=0.01, metrics={"test_accuracy": 0.95})
    first, second = board()["rows"]
    assert [run["run_id"] for run in first["runs"]] == [other]
    assert (first["mean"], first["std"], first["changes"]) == (0.95, None, {"lr": "0.01"})
    assert [run["run_id"] for run in second["runs"]] == alike
    assert [run["seed"] for run in second["runs"]] == ["0", "1", "2"]
    figures = [second[name] for name in ("mean", "std", "least", "most")]
    assert figures == pytest.approx([0.91, 0.01, 0.9, 0.92])
    assert second["changes"] == {}
    assert second["newest"] == "2027-01-18T08:00:00+00:00"


def test_repeated_seed_counts_once(store: Store, board: Callable[..., Any]) -> None:
    store.add(metrics={"test_accuracy": 0.1})
    newest = store.add(metrics={"test_accuracy": 0.8})
    store.add("FAILED", metrics={"test_accuracy": 0.9})
    (row,) = board()["rows"]
    assert ([run["run_id"] for run in row["runs"]], row["mean"]) == ([newest], 0.8)


def test_figure_settings_make_no_row(store: Store, board: Callable[..., Any]) -> None:
    for bins in (10, 15):
        changed = {**store.values["figures"], "calibration": {"bins": bins}}
        store.add(seed=bins, figures=changed, metrics={"test_accuracy": 0.5})
    (row,) = board()["rows"]
    assert len(row["runs"]) == 2


@pytest.mark.parametrize(
    ("metric", "better"),
    [
        ("test_accuracy", 1),
        ("val_loss", 0),
        ("test_error", 0),
        ("test_f1", 1),
        ("kl_divergence", 0),
    ],
)
def test_order_follows_metric_direction(
    store: Store, board: Callable[..., Any], metric: str, better: int
) -> None:
    runs = [store.add(lr=0.1 + value, metrics={metric: value}) for value in (0.0, 1.0)]
    document = board(metric)
    assert [row["runs"][0]["run_id"] for row in document["rows"]] == [
        runs[better],
        runs[not better],
    ]
    assert document["better"] == ("more" if better else "less")


def test_unfinished_runs_are_left_out(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    store.add(metrics={"test_accuracy": 0.5})
    store.add(lr=1.0, metrics={"test_accuracy": math.nan})
    store.add(lr=2.0)
    for status in ("FAILED", "FAILED", "KILLED", "RUNNING"):
        store.add(status, lr=3.0, metrics={"test_accuracy": 0.9})
    summary = store.client.create_run(store.experiment, tags={groups.SUMMARY: "x"}).info.run_id
    store.client.log_metric(summary, "test_accuracy", 1.0)
    leaderboard.lead("mnist", "test_accuracy", 20, as_json=False)
    printed = capsys.readouterr().out
    assert "\nleft out: 2 FAILED, 1 KILLED, 1 RUNNING, 2 without test_accuracy\n" in printed
    assert printed.startswith("   test_accuracy  std  min..max  n  training, s  newest      run")
    rank, mean, n_seeds, *_ = printed.splitlines()[1].split()
    assert (rank, mean, n_seeds) == ("1", "0.5", "1")
    assert "\n2  " not in printed


def test_train_s_is_the_median_of_seeds(store: Store, board: Callable[..., Any]) -> None:
    runs = [store.add(seed=seed, metrics={"test_accuracy": 0.5}) for seed in range(4)]
    store.add_training(runs[0], 10.0)
    store.add_training(runs[1], 30.0, "retrace.cached.train")
    store.add_training(runs[2], 50.0, "retrace.cached.train")
    store.add_training(runs[2], 1.0)  # an attempt that was killed; the cached run counts
    (row,) = board()["rows"]
    assert row["train_s"] == 30.0


def test_unknown_names_are_refused(store: Store) -> None:
    assert "'test_accuracy'" in refused()
    assert "no run has finished" in refused()
    store.add(metrics={"test_accuracy": 0.5, "val_loss": 1.0})
    assert refused(metric="accuracy").endswith("test_accuracy, val_loss")
    assert refused("mnits").startswith("mnits: ")
    assert refused("mnits").endswith(" mnist")
    assert refused(top=0) == "--top is 0; should be 1 or more"


def test_missing_store_is_not_created(folder: Path) -> None:
    assert "mlflow.db does not exist" in refused()
    assert not Path("mlflow.db").exists()


def test_top_limits_the_rows(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    for i in range(5):
        store.add(lr=0.1 * (i + 1), metrics={"test_accuracy": i / 10})
    leaderboard.lead(None, "test_accuracy", 2, as_json=False)
    printed = capsys.readouterr().out
    assert "; 3 more rows: --top 5\n" in printed
    assert [line.split()[1] for line in printed.splitlines()[1:3]] == ["0.4", "0.3"]


def test_queries_are_few(
    store: Store, board: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    for i in range(12):
        store.add_training(store.add(lr=0.1 * (i + 1), metrics={"test_accuracy": i / 10}), 1.0)
    queries: list[str] = []
    search_runs = mlflow.MlflowClient.search_runs

    def counted(self: MlflowClient, ids: list[str], query: str, *rest: Any, **others: Any) -> Any:
        queries.append(query)
        return search_runs(self, ids, query, *rest, **others)

    monkeypatch.setattr(mlflow.MlflowClient, "search_runs", counted)
    assert all(row["train_s"] == 1.0 for row in board()["rows"])
    assert len(queries) == 2


def test_parameter_text_is_escaped(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    store.add(pretrained="[red]x[/red]\x1b[31m", metrics={"test_accuracy": 0.5})
    leaderboard.lead(None, "test_accuracy", 20, as_json=False)
    printed = capsys.readouterr().out
    assert "pretrained=[red]x[/red]\\x1b[31m\n" in printed
