"""The leaderboard: which runs are one row, which are in none, and which row is first."""

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
from retrace.pipeline import params_file
from retrace.store import groups

DAY_MS = 86_400_000
START_MS = 1_800_000_000_000


class Store:
    """A store in which experiments on MNIST are made up, each a day younger than the one before."""

    def __init__(self, place: Path) -> None:
        self.client = MlflowClient(f"sqlite:///{place}")
        self.experiment = self.client.create_experiment("mnist")
        self.values, self.n = params_file.read(), 0

    def ran(
        self, status: str = "FINISHED", metrics: dict[str, float] | None = None, **changed: Any
    ) -> str:
        """The id of an experiment with these parameters `changed`."""
        self.n += 1
        run = self._run({"retrace.key": str(self.n)}, status, START_MS + self.n * DAY_MS)
        chosen = [
            Param(name, str(value)) for name, value in params.chosen(self.values | changed).items()
        ]
        self.client.log_batch(
            run, [Metric(name, value, 0, 0) for name, value in (metrics or {}).items()], chosen
        )
        return run

    def trained(self, parent: str, seconds: float, tag: str = "retrace.run.train") -> None:
        """It took so long; in its own run, or in another's from whose cache it came."""
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
def told(capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """The leaderboard as JSON."""

    def say(metric: str = "test_accuracy", top: int = 20) -> Any:
        capsys.readouterr()
        leaderboard.lead(None, metric, top, as_json=True)
        return json.loads(capsys.readouterr().out)

    return say


def refused(dataset: str | None = None, metric: str = "test_accuracy", top: int = 20) -> str:
    with pytest.raises(RetraceError) as error:
        leaderboard.lead(dataset, metric, top, as_json=False)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_runs_that_differ_in_their_seed_are_one_row(store: Store, told: Callable[..., Any]) -> None:
    alike = [
        store.ran(seed=seed, metrics={"test_accuracy": 0.9 + seed / 100}) for seed in (0, 1, 2)
    ]
    other = store.ran(lr=0.01, metrics={"test_accuracy": 0.95})
    first, second = told()["rows"]
    assert [run["run_id"] for run in first["runs"]] == [other]
    assert (first["mean"], first["std"], first["changes"]) == (0.95, None, {"lr": "0.01"})
    assert [run["run_id"] for run in second["runs"]] == alike
    assert [run["seed"] for run in second["runs"]] == ["0", "1", "2"]
    figures = [second[name] for name in ("mean", "std", "least", "most")]
    assert figures == pytest.approx([0.91, 0.01, 0.9, 0.92])
    assert second["changes"] == {}
    assert second["newest"] == "2027-01-18T08:00:00+00:00"


def test_the_same_seed_again_counts_once_as_it_is_now(
    store: Store, told: Callable[..., Any]
) -> None:
    store.ran(metrics={"test_accuracy": 0.1})
    newest = store.ran(metrics={"test_accuracy": 0.8})
    store.ran("FAILED", metrics={"test_accuracy": 0.9})
    (row,) = told()["rows"]
    assert ([run["run_id"] for run in row["runs"]], row["mean"]) == ([newest], 0.8)


def test_settings_of_pictures_make_no_row(store: Store, told: Callable[..., Any]) -> None:
    for bins in (10, 15):
        changed = {**store.values["figures"], "calibration": {"bins": bins}}
        store.ran(seed=bins, figures=changed, metrics={"test_accuracy": 0.5})
    (row,) = told()["rows"]
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
def test_the_best_is_first_by_the_metric_s_name(
    store: Store, told: Callable[..., Any], metric: str, better: int
) -> None:
    runs = [store.ran(lr=0.1 + value, metrics={metric: value}) for value in (0.0, 1.0)]
    board = told(metric)
    assert [row["runs"][0]["run_id"] for row in board["rows"]] == [runs[better], runs[not better]]
    assert board["better"] == ("more" if better else "less")


def test_what_did_not_finish_or_was_not_measured_is_counted_and_nothing_else(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    store.ran(metrics={"test_accuracy": 0.5})
    store.ran(lr=1.0, metrics={"test_accuracy": math.nan})
    store.ran(lr=2.0)
    for status in ("FAILED", "FAILED", "KILLED", "RUNNING"):
        store.ran(status, lr=3.0, metrics={"test_accuracy": 0.9})
    summary = store.client.create_run(store.experiment, tags={groups.SUMMARY: "x"}).info.run_id
    store.client.log_metric(summary, "test_accuracy", 1.0)
    leaderboard.lead("mnist", "test_accuracy", 20, as_json=False)
    said = capsys.readouterr().out
    assert "\nleft out: 2 FAILED, 1 KILLED, 1 RUNNING, 2 without test_accuracy\n" in said
    assert said.startswith("   test_accuracy  std  min..max  n  training, s  newest      run")
    assert "\n1            0.5                    1" in said
    assert "\n2  " not in said


def test_training_took_the_median_of_its_seeds_also_where_dvc_s_cache_had_it(
    store: Store, told: Callable[..., Any]
) -> None:
    runs = [store.ran(seed=seed, metrics={"test_accuracy": 0.5}) for seed in range(4)]
    store.trained(runs[0], 10.0)
    store.trained(runs[1], 30.0, "retrace.cached.train")
    store.trained(runs[2], 50.0, "retrace.cached.train")
    store.trained(runs[2], 1.0)  # an attempt that was killed, beside the link to what it has
    (row,) = told()["rows"]
    assert row["train_s"] == 30.0


def test_what_is_not_there_is_refused_with_what_is(store: Store) -> None:
    assert refused().startswith(
        "--metric is 'test_accuracy', which no finished run on mnist has; none is finished; "
    )
    store.ran(metrics={"test_accuracy": 0.5, "val_loss": 1.0})
    assert refused(metric="accuracy").endswith(
        "no finished run on mnist has; there are test_accuracy, val_loss"
    )
    assert refused("mnits") == "mnits: MLflow has no run on this data set; there are runs on mnist"
    assert refused(top=0) == "--top is 0; should be 1 or more"


def test_without_a_store_none_is_made(folder: Path) -> None:
    assert refused().endswith("mlflow.db: does not exist; `dvc repro` or `retrace sync` makes it")
    assert not Path("mlflow.db").exists()


def test_only_the_top_is_shown_and_the_rest_is_counted(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    for i in range(5):
        store.ran(lr=0.1 * (i + 1), metrics={"test_accuracy": i / 10})
    leaderboard.lead(None, "test_accuracy", 2, as_json=False)
    said = capsys.readouterr().out
    assert "; 3 more rows: --top 5\n" in said
    assert [line.split()[1] for line in said.splitlines()[1:3]] == ["0.4", "0.3"]


def test_a_thousand_runs_are_asked_for_in_a_few_questions(
    store: Store, told: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    for i in range(12):
        store.trained(store.ran(lr=0.1 * (i + 1), metrics={"test_accuracy": i / 10}), 1.0)
    asked: list[str] = []
    whole = mlflow.MlflowClient.search_runs

    def counted(self: MlflowClient, ids: list[str], condition: str = "", **others: Any) -> Any:
        asked.append(condition)
        return whole(self, ids, condition, **others)

    monkeypatch.setattr(mlflow.MlflowClient, "search_runs", counted)
    assert all(row["train_s"] == 1.0 for row in told()["rows"])
    assert len(asked) == 2


def test_text_in_a_parameter_is_shown_as_it_is(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    store.ran(pretrained="[red]x[/red]\x1b[31m", metrics={"test_accuracy": 0.5})
    leaderboard.lead(None, "test_accuracy", 20, as_json=False)
    said = capsys.readouterr().out
    assert "pretrained=[red]x[/red]\\x1b[31m\n" in said
