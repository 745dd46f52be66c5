"""Runs that a user has deleted in MLflow, or `mlflow gc` has removed."""

from pathlib import Path

import mlflow
import pytest
from faults.servers import rows
from mlflow.entities import Run
from mlflow_runs import erase, experiments_by_name

from retrace.cli import sync
from retrace.errors import RetraceError
from retrace.provenance import record
from retrace.provenance.run_index import RunIndex
from retrace.store import lifecycle, run_tags


def stage_of(store: mlflow.MlflowClient, run: Run, stage: str) -> Run:
    return store.get_run(str(run_tags.linked_run(run.data.tags, stage)))


def is_stable() -> bool:
    """Return whether another sync changes nothing."""
    before = rows("sqlite:///mlflow.db")
    sync.sync()
    return rows("sqlite:///mlflow.db") == before


def test_deleted_runs_are_restored(fits: mlflow.MlflowClient) -> None:
    before = experiments_by_name(fits)
    train = stage_of(fits, before["first"], "train")
    for run in (*before.values(), train):
        fits.delete_run(run.info.run_id)
    sync.sync()
    after = experiments_by_name(fits)
    assert {run.info.run_id for run in after.values()} == {
        run.info.run_id for run in before.values()
    }
    assert fits.get_run(train.info.run_id).info.lifecycle_stage == "active"
    assert is_stable()


def test_stages_move_to_the_new_run(fits: mlflow.MlflowClient) -> None:
    old = experiments_by_name(fits)["first"]
    train = stage_of(fits, old, "train")
    erase(fits, old.info.run_id)
    with pytest.raises(RetraceError, match="`retrace sync`"):
        record.find_record(train.info.run_id)
    sync.sync()
    new = experiments_by_name(fits)["first"]
    assert stage_of(fits, new, "train").info.run_id == train.info.run_id
    moved = fits.get_run(train.info.run_id)
    assert moved.data.tags["mlflow.parentRunId"] == new.info.run_id
    assert record.find_record(train.info.run_id).parent.info.run_id == new.info.run_id
    assert is_stable()


@pytest.mark.parametrize("is_cached", [False, True])
def test_gone_stage_is_added_again(fits: mlflow.MlflowClient, is_cached: bool) -> None:
    """The stage of the experiment itself, or one that it took from another experiment."""
    runs = experiments_by_name(fits).values()
    run = next(run for run in runs if run_tags.cached_run(run.data.tags, "prepare"))
    gone = run_tags.linked_run(run.data.tags, "prepare" if is_cached else "train")
    erase(fits, str(gone))
    with pytest.raises(RetraceError, match="missing.*`retrace sync`"):
        record.find_record(run.info.run_id)
    sync.sync()
    assert gone not in run_tags.linked_runs(fits.get_run(run.info.run_id).data.tags)
    assert len(record.find_record(run.info.run_id).stages) == 3
    assert is_stable()


def test_deleted_run_names_its_repair(
    fits: mlflow.MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = experiments_by_name(fits)["first"].info.run_id
    fits.delete_run(run_id)
    for address in ("", "sqlite:///mlflow.db"):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        before = f"MLFLOW_TRACKING_URI={address} " if address else ""
        command = f"`{before}mlflow runs restore --run-id {run_id}`"
        with pytest.raises(RetraceError) as refused:
            RunIndex().required(run_id[:8])
        assert command in str(refused.value)
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    (experiment,) = (each for each in fits.search_experiments() if each.name == "fits")
    fits.delete_experiment(experiment.experiment_id)
    command = f"mlflow experiments restore --experiment-id {experiment.experiment_id}"
    assert command in RunIndex().deleted(run_id)
    assert RunIndex().deleted("0" * 32) == ""


def test_renamed_experiment_is_followed(fits: mlflow.MlflowClient) -> None:
    (experiment,) = (each for each in fits.search_experiments() if each.name == "fits")
    fits.rename_experiment(experiment.experiment_id, "mine")
    assert is_stable()
    assert {each.name for each in fits.search_experiments()} == {"Default", "mine"}


def test_deleted_key_is_set_again(fits: mlflow.MlflowClient) -> None:
    first = experiments_by_name(fits)["first"]
    fits.delete_tag(first.info.run_id, "retrace.key")
    sync.sync()
    assert experiments_by_name(fits)["first"].info.run_id == first.info.run_id
    assert is_stable()


def test_all_commits_follow_too(fits: mlflow.MlflowClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """With many experiments, the runs are read at once."""
    monkeypatch.setattr("retrace.store.experiments.FEW", 0)
    Path(".retrace/experiments.json").unlink()
    runs = experiments_by_name(fits)
    erase(fits, str(run_tags.stage_run(runs["first"].data.tags, "train")))
    for run in runs.values():
        fits.delete_run(run.info.run_id)
    sync.sync(all_commits=True)
    assert experiments_by_name(fits).keys() == runs.keys()
    assert len(record.find_record(runs["first"].info.run_id).stages) == 3


def test_deleted_attempt_is_restored(fits: mlflow.MlflowClient) -> None:
    """A user deletes the run of a stage whose event log is not uploaded to its end."""
    train = stage_of(fits, experiments_by_name(fits)["first"], "train")
    fits.set_tag(train.info.run_id, run_tags.hidden("journal"), "id of the log")
    fits.delete_run(train.info.run_id)
    tags = {run_tags.hidden("journal"): "id of the log"}
    restored = lifecycle.first(fits, train.info.experiment_id, tags)
    assert restored
    assert restored.info.run_id == train.info.run_id
    assert fits.get_run(train.info.run_id).info.lifecycle_stage == "active"
