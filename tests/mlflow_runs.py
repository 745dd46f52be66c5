"""What tests read from MLflow: the runs of an experiment."""

import sqlite3
from contextlib import closing
from pathlib import Path

import mlflow
from mlflow.entities import Run

from retrace.store.upload import Upload


def upload_again(path: Path) -> None:
    """Upload an uploaded event log once more."""
    (path.parent / "uploaded" / path.name).rename(path)
    Upload(path).advance()


def runs(store: mlflow.MlflowClient) -> tuple[list[Run], list[Run]]:
    """Return all parents and all children of the experiment mnist, oldest first."""
    experiment = store.get_experiment_by_name("mnist")
    assert experiment is not None
    every = store.search_runs([experiment.experiment_id], order_by=["start_time ASC"])
    children = [run for run in every if "mlflow.parentRunId" in run.data.tags]
    return [run for run in every if run not in children], children


def columns(store: mlflow.MlflowClient, experiment: str) -> dict[str, set[str]]:
    """Return what MLflow's column chooser offers for the runs of an experiment, by kind."""
    every = store.search_runs([experiment])
    tags = {tag for run in every for tag in run.data.tags}
    return {
        "metrics": {name for run in every for name in run.data.metrics},
        "params": {name for run in every for name in run.data.params},
        "tags": {tag for tag in tags if not tag.startswith("mlflow.")},
    }


def experiments_by_name(store: mlflow.MlflowClient) -> dict[str, Run]:
    """Return the runs of experiments in all MLflow experiments, by their names."""
    ids = [experiment.experiment_id for experiment in store.search_experiments()]
    runs = store.search_runs(ids, "tags.`retrace.key` LIKE '%'")
    named = {str(run.info.run_name): run for run in runs}
    assert len(named) == len(runs)
    return named


def erase(store: mlflow.MlflowClient, run_id: str) -> None:
    """Remove a run for good, as `mlflow gc` does after it was deleted."""
    with closing(sqlite3.connect(store.tracking_uri.removeprefix("sqlite:///"))) as database:
        for table in ("tags", "params", "metrics", "latest_metrics", "runs"):
            database.execute(f"DELETE FROM {table} WHERE run_uuid = ?", (run_id,))  # noqa: S608
        database.commit()
