"""Runs that are written into MLflow's tables have the rows that its client writes."""

import shutil
import sqlite3
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import mlflow
import pytest

from retrace.store import new_runs
from retrace.store.new_runs import ClientRuns, Content, DatabaseRuns, NewRuns

TABLES = ("runs", "tags", "params", "metrics", "latest_metrics")
LONG = "a" * 260
CONTENT = Content(
    time=2_000,
    params={"lr": 0.1, LONG: "x", "none": None},
    metrics={"acc": 0.5, "acc@5": float("nan"), "loss": float("inf"), "n": 10**400, LONG: 1},
    tags={"note": "good", "mlflow.source.name": "dvc.lock"},
)


def rows(database: Path) -> Counter[tuple[str, ...]]:
    """Return the rows of the only run, without its id."""
    with closing(sqlite3.connect(database)) as connection:
        ((run,),) = connection.execute("SELECT run_uuid FROM runs")
        select = ((table, f"SELECT * FROM {table}") for table in TABLES)  # noqa: S608 - ours
        every = [(table, *row) for table, query in select for row in connection.execute(query)]
    text = [tuple(str(cell).replace(run, "ID") for cell in row) for row in every]
    return Counter(
        tuple(cell.replace(str(database.parent), "FOLDER") for cell in row) for row in text
    )


def created(
    folder: Path, empty_store: Path, writer: Callable[[mlflow.MlflowClient], NewRuns]
) -> Counter[tuple[str, ...]]:
    """Return the rows of a run that a writer created in an empty store."""
    folder.mkdir()
    shutil.copy(empty_store, folder / "mlflow.db")
    client = mlflow.MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
    experiment = client.create_experiment("fit", (folder / "mlruns").as_uri())
    new = writer(client)
    run = new.create(experiment, "first", 1_000, {"retrace.key": "k", "mlflow.user": "ann"})
    new.finish(run, CONTENT)
    new.flush()
    return rows(folder / "mlflow.db")


def test_rows_are_those_of_the_client(tmp_path: Path, empty_store: Path) -> None:
    fast = created(tmp_path / "fast", empty_store, DatabaseRuns)
    assert fast == created(tmp_path / "slow", empty_store, ClientRuns)
    assert fast.total() > 15


def test_database_is_written_directly(store: mlflow.MlflowClient) -> None:
    assert isinstance(new_runs.writer(store), DatabaseRuns)


def test_other_tables_are_left_to_the_client(
    store: mlflow.MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow.store.tracking.dbmodels import models

    monkeypatch.delattr(models, "SqlLatestMetric")
    assert isinstance(new_runs.writer(store), ClientRuns)
