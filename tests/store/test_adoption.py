"""Runs that a stage's own code makes with MLflow, below the stage's run."""

import sqlite3
from contextlib import suppress
from pathlib import Path
from typing import Any

import mlflow
import pytest
from mlflow.entities import Run
from mlflow_runs import upload_again

import retrace
from retrace.event_log import EventLog
from retrace.store import run_context

pytestmark = pytest.mark.usefixtures("beside", "folder")
PARENT = "mlflow.parentRunId"
COPY = {
    "id": "abc",
    "name": "theirs",
    "experiment": "their experiment",
    "store": "mlruns",
    "status": "FAILED",
    "start_time": 1000,
    "end_time": 2000,
    "params": {"lr": "0.1"},
    "tags": {"mlflow.runName": "theirs", "team": "a"},
    "metrics": [["loss", 0.5, 1500, 0], ["loss", 0.25, 1600, 1]],
}


def create(
    store: mlflow.MlflowClient, log: EventLog, name: str, title: str = "mnist", parent: str = ""
) -> str:
    """Create a run as the code of a stage does, in the pipeline's MLflow experiment or another."""
    experiment = store.get_experiment_by_name(title)
    number = experiment.experiment_id if experiment else store.create_experiment(title)
    tags = run_context.tags(log.header) | ({PARENT: parent} if parent else {})
    return store.create_run(number, tags=tags, run_name=name).info.run_id


def stage_run(store: mlflow.MlflowClient, log: EventLog) -> Run:
    experiment = store.get_experiment_by_name("mnist")
    assert experiment
    query = f"tags.`mlflow.retrace.journal` = '{log.id}'"
    (run,) = store.search_runs([experiment.experiment_id], query)
    return run


def test_runs_hang_below_the_stage(store: mlflow.MlflowClient) -> None:
    with retrace.stage("train") as log:
        outer = create(store, log, "outer")
        inner = create(store, log, "inner", parent=outer)
        theirs = create(store, log, "elsewhere", "theirs")
        for run in (outer, inner, theirs):
            store.set_terminated(run)
    stage = stage_run(store, log)
    tags = {run: store.get_run(run).data.tags for run in (outer, inner, theirs)}
    assert tags[outer][PARENT] == stage.info.run_id
    assert tags[inner][PARENT] == outer
    assert PARENT not in tags[theirs]
    assert {each["retrace.below.run"] for each in tags.values()} == {stage.info.run_id}
    lines = stage.data.tags["retrace.runs"].splitlines()
    assert [line.partition(": ")[0] for line in lines] == ["outer", "inner", "elsewhere"]
    assert lines[0].endswith(f"/runs/{outer}")
    assert "retrace.failed_runs" not in stage.data.tags


@pytest.mark.parametrize("status", ["FINISHED", "FAILED"])
def test_open_run_gets_status(store: mlflow.MlflowClient, status: str) -> None:
    runs: list[str] = []
    with suppress(ValueError), retrace.stage("train") as log:
        runs.append(create(store, log, "open"))
        if status == "FAILED":
            raise ValueError
    (run,) = runs
    assert store.get_run(run).info.status == status
    stage = store.get_run(store.get_run(run).data.tags[PARENT])
    assert stage.info.status == status


def test_failed_run_is_named(store: mlflow.MlflowClient) -> None:
    with retrace.stage("train") as log:
        store.set_terminated(create(store, log, "trial 1"), "FAILED")
        store.set_terminated(create(store, log, "trial 2"), "FINISHED")
    run = stage_run(store, log)
    assert (run.info.status, run.data.tags["retrace.failed_runs"]) == ("FINISHED", "trial 1")


def logged(store: mlflow.MlflowClient, *, summary: bool) -> dict[str, float]:
    """Return the metrics of a stage whose code logs metrics of two runs with MLflow."""
    with retrace.stage("train") as log:
        for name, metrics in {"a": {"loss": 0.5, "only": 1.0}, "b": {"loss": 0.25}}.items():
            run = create(store, log, name)
            for key, value in metrics.items():
                store.log_metric(run, key, value)
            nested = create(store, log, "nested", parent=run)
            store.log_metric(nested, "nested", 7)
        if summary:
            log.summary({"loss": 0.125})
    run = stage_run(store, log)
    return store.get_run(run.data.tags[PARENT]).data.metrics


def test_numbers_of_runs_are_last_resort(store: mlflow.MlflowClient) -> None:
    assert logged(store, summary=False) == {"a/loss": 0.5, "b/loss": 0.25, "only": 1.0}


def test_numbers_of_stage_stay(store: mlflow.MlflowClient) -> None:
    assert logged(store, summary=True) == {"loss": 0.125}


def test_run_of_other_store_is_copied(store: mlflow.MlflowClient, folder: Path) -> None:
    (folder / "note.txt").write_text("text")
    nested: dict[str, Any] = {"id": "def", "status": "RUNNING", "tags": {PARENT: "abc"}}
    with retrace.stage("train") as log:
        log.run(COPY, {"a/note.txt": folder / "note.txt"})
        log.run(COPY | nested, {})
    stage = stage_run(store, log)
    query = "tags.`retrace.original.store` = 'mlruns'"
    above, below = store.search_runs([stage.info.experiment_id], query, order_by=["metrics.x"])
    if above.data.tags["retrace.original.run"] == "def":
        above, below = below, above
    assert above.data.tags["retrace.original.run"] == "abc"
    assert above.data.tags[PARENT] == stage.info.run_id
    assert below.data.tags[PARENT] == above.info.run_id
    assert (above.info.run_name, above.info.start_time) == ("theirs", 1000)
    assert (above.info.status, above.info.end_time) == ("FAILED", 2000)
    assert below.info.status == "FINISHED"
    assert above.data.params == {"lr": "0.1"}
    assert above.data.tags["team"] == "a"
    history = store.get_metric_history(above.info.run_id, "loss")
    assert [(point.step, point.value, point.timestamp) for point in history] == [
        (0, 0.5, 1500),
        (1, 0.25, 1600),
    ]
    assert [file.path for file in store.list_artifacts(above.info.run_id, "a")] == ["a/note.txt"]


def test_adoption_is_idempotent(store: mlflow.MlflowClient) -> None:
    def rows() -> list[tuple[object, ...]]:
        with sqlite3.connect("mlflow.db") as database:
            tables = ("runs", "metrics", "params", "tags")
            queries = [f"SELECT * FROM {table} ORDER BY 1, 2, 3" for table in tables]  # noqa: S608
            return [row for query in queries for row in database.execute(query)]

    with retrace.stage("train") as log:
        run = create(store, log, "outer")
        store.log_metric(run, "loss", 0.5)
        create(store, log, "elsewhere", "theirs")
        log.run(COPY, {})
    before = rows()
    upload_again(log.path)
    assert rows() == before
