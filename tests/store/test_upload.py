"""An event log in MLflow: its runs, metrics, models, data sets and folds."""

import shutil
import sqlite3
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import mlflow
import numpy as np
import pytest
from mlflow import artifacts
from mlflow.entities import Run
from mlflow_runs import runs, upload_again

import retrace
from lab import params, paths
from lab.models import classifier
from lab.models.classifier import ModelConfig
from retrace import event_log
from retrace.event_log import EventLog
from retrace.pipeline import hashing
from retrace.store import backend as tracking_store
from retrace.store import run_tags, upload
from retrace.store.runs import DURATION, abandoned, pair
from retrace.system import processes

pytestmark = pytest.mark.usefixtures("beside")


@pytest.mark.usefixtures("folder")
def test_upload_is_idempotent(store: mlflow.MlflowClient) -> None:
    with retrace.stage("train") as run:
        for step in range(1200):
            run.metrics({"train_loss": 1 / (step + 1)}, step)
        run.summary({"train_accuracy": 0.5})

    def rows() -> list[tuple[object, ...]]:
        with sqlite3.connect("mlflow.db") as database:
            tables = ("runs", "metrics", "params", "tags")
            queries = [f"SELECT * FROM {table} ORDER BY 1, 2, 3" for table in tables]  # noqa: S608
            return [row for query in queries for row in database.execute(query)]

    before = rows()
    upload_again(run.path)
    assert rows() == before
    assert len(store.get_metric_history(runs(store)[1][0].info.run_id, "train_loss")) == 1200


def test_finish_waits_for_another_uploader(tmp_path: Path) -> None:
    log = EventLog(tmp_path, stage="train")
    log.end("FINISHED")
    with ThreadPoolExecutor() as pool:
        with processes.try_lock(log.path):
            finished = pool.submit(upload.finish, log.path, wait_s=60)
            with pytest.raises(TimeoutError):
                finished.result(timeout=0.2)
            event_log.archive(log.path)
        assert finished.result() is False  # the other one has uploaded it


@pytest.mark.usefixtures("folder")
def test_run_with_event_log_is_not_abandoned(store: mlflow.MlflowClient) -> None:
    gone = processes.identity() | {"started": -1.0}
    with retrace.stage("train") as run:
        run.sync()
    (_,), (child,) = runs(store)
    name = run_tags.hidden("process")
    store.set_tag(child.info.run_id, name, processes.to_line(gone))
    store.update_run(child.info.run_id, "RUNNING")
    log = EventLog(event_log.folder(), stage="train", process=gone)
    assert abandoned(store) == []
    event_log.archive(log.path)
    assert [each.info.run_id for each in abandoned(store)] == [child.info.run_id]


@pytest.mark.usefixtures("folder")
def test_parent_is_one_per_experiment(
    store: mlflow.MlflowClient,
) -> None:
    for _ in range(2):
        with retrace.stage("download"):
            pass
    with retrace.stage("train"):
        pass
    paths.PARAMS.write_text(paths.PARAMS.read_text().replace("\nlr: 0.005", "\nlr: 0.01"))
    with retrace.stage("train"):
        pass
    parents, children = runs(store)
    assert [parent.data.params["lr"] for parent in parents] == ["0.005", "0.01"]
    assert Counter(child.data.tags["mlflow.parentRunId"] for child in children) == {
        parents[0].info.run_id: 3,
        parents[1].info.run_id: 1,
    }


@pytest.mark.usefixtures("folder")
def test_parent_has_name_of_dvc_experiment(
    store: mlflow.MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DVC_EXP_NAME", "tamed-zigs")
    monkeypatch.setenv("DVC_EXP_BASELINE_REV", "abc123")
    with retrace.stage("download"):
        pass
    (parent,), (child,) = runs(store)
    assert parent.info.run_name == "tamed-zigs"
    for run in (parent, child):
        assert run.data.tags["dvc.exp_name"] == "tamed-zigs"
        assert run.data.tags["dvc.baseline_rev"] == "abc123"


@pytest.mark.usefixtures("folder")
def test_parent_takes_newer_dvc_name(
    store: mlflow.MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("first", "second"):
        monkeypatch.setenv("DVC_EXP_NAME", name)
        with retrace.stage("download"):
            pass
    (parent,), children = runs(store)
    assert (parent.info.run_name, parent.data.tags["dvc.exp_name"]) == ("second", "second")
    assert [child.data.tags["dvc.exp_name"] for child in children] == ["first", "second"]


@pytest.mark.usefixtures("folder")
def test_deleted_experiment_is_restored(
    store: mlflow.MlflowClient,
) -> None:
    for _ in range(2):
        with retrace.stage("download"):
            pass
        experiment = store.get_experiment_by_name("mnist")
        assert experiment is not None
        assert experiment.lifecycle_stage == "active"
        store.delete_experiment(experiment.experiment_id)


def test_relative_store_is_in_main_repository(
    folder: Path,
    empty_store: Path,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shutil.copy(empty_store, folder / "other.db")
    thrown_away = tmp_path_factory.mktemp("exps")
    for name in (paths.PARAMS, paths.GRAPH):
        shutil.copy(name, thrown_away)
    monkeypatch.setenv("DVC_ROOT", str(folder))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///other.db")
    monkeypatch.chdir(thrown_away)
    with retrace.stage("download"):
        pass
    (_,), (child,) = runs(mlflow.MlflowClient(f"sqlite:///{folder}/other.db"))
    assert str(child.info.artifact_uri).startswith(f"file://{folder}/mlruns/mnist/")
    assert list(thrown_away.glob("*.db")) == []


@pytest.mark.usefixtures("folder")
def test_model_belongs_to_both_runs(
    store: mlflow.MlflowClient,
    config_of: Callable[[str, int], ModelConfig],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = config_of("cnn", 28)
    with retrace.stage("train") as run:
        model = classifier.build(config)
        classifier.save(model, config)
        run.model(paths.WEIGHTS, paths.MODEL_CONFIG)
    (parent,), (child,) = runs(store)
    outputs = [run.outputs.model_outputs if run.outputs else [] for run in (child, parent)]
    (of_child,), (of_parent,) = outputs
    assert of_child.model_id == of_parent.model_id
    assert child.info.status == "FINISHED"

    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
    loaded = mlflow.pyfunc.load_model(f"models:/{of_child.model_id}")
    images = np.random.default_rng(0).integers(0, 256, (5, 1, 28, 28), dtype=np.uint8)
    probabilities = loaded.predict(images)
    assert probabilities.shape == (5, 2)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)
    assert loaded.metadata.signature.inputs.inputs[0].type == np.uint8
    assert np.asarray(loaded.input_example).shape == (2, 1, 28, 28)
    logged = Path(artifacts.download_artifacts(f"models:/{of_child.model_id}"))
    assert "torch==" in (logged / "requirements.txt").read_text()
    assert (logged / "data" / "model.pt2").is_file()


def train_and_evaluate(config: ModelConfig) -> None:
    """Run both stages on stub splits, and upload the event log of evaluate twice."""
    for path in (paths.TRAIN, paths.VALIDATION, paths.TEST):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(path.name.encode())
    with retrace.stage("train") as run:
        classifier.save(classifier.build(config), config)
        run.summary({"train_loss": 0.5, "val_accuracy": 0.75})
        run.model(paths.WEIGHTS, paths.MODEL_CONFIG)
    with retrace.stage("evaluate") as run:
        run.summary({"test_accuracy": 0.5})
    upload_again(run.path)


def logged_datasets(run: Run) -> dict[str, tuple[str, str]]:
    """Return the MD5 and the context of the run's data sets by their names."""
    inputs = run.inputs.dataset_inputs if run.inputs else []
    return {each.dataset.name: (each.dataset.digest, each.tags[0].value) for each in inputs}


def test_datasets_and_model_metrics_are_logged(
    folder: Path, store: mlflow.MlflowClient, config_of: Callable[[str, int], ModelConfig]
) -> None:
    train_and_evaluate(config_of("softmax", 8))
    (parent,), (train, evaluate) = runs(store)

    expected = {
        f"mnist {path.stem}": (hashing.md5(path), context)
        for path, context in (
            (paths.TRAIN, "training"),
            (paths.VALIDATION, "validation"),
            (paths.TEST, "testing"),
        )
    }
    assert logged_datasets(parent) == expected
    assert logged_datasets(train) == {
        name: entry for name, entry in expected.items() if entry[1] != "testing"
    }
    assert logged_datasets(evaluate) == {
        name: entry for name, entry in expected.items() if entry[1] == "testing"
    }
    (model,) = store.search_logged_models([parent.info.experiment_id])
    assert {(m.key, m.value, m.dataset_name, m.dataset_digest) for m in model.metrics or []} == {
        ("train_loss", 0.5, "mnist train", hashing.md5(paths.TRAIN)),
        ("val_accuracy", 0.75, "mnist validation", hashing.md5(paths.VALIDATION)),
        ("test_accuracy", 0.5, "mnist test", hashing.md5(paths.TEST)),
    }
    mlflow.set_tracking_uri(store.tracking_uri)
    table = mlflow.search_runs(
        experiment_names=["mnist"], filter_string="dataset.name = 'mnist test'"
    )
    assert set(table["run_id"]) == {parent.info.run_id, evaluate.info.run_id}
    best = mlflow.search_logged_models(
        [parent.info.experiment_id],
        order_by=[{"field_name": "metrics.test_accuracy"}],
        output_format="list",
    )
    assert [logged.model_id for logged in best] == [model.model_id]


@pytest.mark.usefixtures("folder")
def test_concurrent_uploads_share_one_parent(store: mlflow.MlflowClient) -> None:
    with retrace.stage("download") as run:
        pass
    start = event_log.read(run.path.parent / "uploaded" / run.path.name)[0] | {"key": "another"}
    starts = [
        start | {"id": f"{number}", "stage": name} for number, name in enumerate(params.STAGES)
    ]
    with ThreadPoolExecutor(len(starts)) as pool:
        pairs = list(pool.map(lambda start: pair(tracking_store.client(), start), starts))
    (parent,) = store.search_runs(["1"], "tags.`retrace.key` = 'another'")
    assert {each.parent for each in pairs} == {parent.info.run_id}
    assert len({each.child for each in pairs}) == len(starts)


@pytest.mark.usefixtures("folder")
def test_folds_are_summarized_in_a_run(store: mlflow.MlflowClient) -> None:
    whole = paths.PARAMS.read_text().replace("\nfolds: 1", "\nfolds: 3")
    accuracies = (0.5, 0.6, 0.9)
    for fold, accuracy in enumerate(accuracies):
        paths.PARAMS.write_text(whole.replace("\nfold: 0", f"\nfold: {fold}"))
        for name, metric in (
            ("train", "val_accuracy"),
            ("evaluate", "test_accuracy"),
            ("visualize", "tsne"),
        ):
            with retrace.stage(name) as run:
                run.summary({metric: accuracy})
        upload_again(run.path)  # which changes nothing
    (summary,), below = runs(store)
    of_folds = [run for run in below if "retrace.folds" in run.data.tags]
    assert summary.info.run_name == "3 folds"
    assert {run.data.tags["mlflow.parentRunId"] for run in of_folds} == {summary.info.run_id}
    assert len(of_folds) == 3
    assert summary.data.tags["retrace.folds.done"] == "3 of 3"
    assert summary.data.metrics["val_accuracy_mean"] == pytest.approx(np.mean(accuracies))
    assert summary.data.metrics["test_accuracy_spread"] == pytest.approx(np.std(accuracies, ddof=1))
    assert summary.data.metrics["tsne_mean"] == pytest.approx(np.mean(accuracies))
    history = store.get_metric_history(summary.info.run_id, "val_accuracy_mean")
    assert {(point.step, round(point.value, 3)) for point in history} == {
        (1, 0.5),
        (2, 0.55),
        (3, 0.667),
    }
    assert "fold" not in summary.data.params
    assert summary.data.params["folds"] == "3"


def lasted_ms(run: Run) -> int:
    """Return what MLflow's page shows as the duration."""
    return (run.info.end_time or 0) - run.info.start_time


@pytest.mark.usefixtures("folder")
def test_duration_is_that_of_the_newest_stages(
    store: mlflow.MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_log, "now", lambda: now[0])
    now = [1_000_000]

    def attempt(name: str, seconds: float, *, fails: bool = False) -> None:
        now[0] += 100
        with suppress(ZeroDivisionError), retrace.stage(name):
            now[0] += int(1000 * seconds)
            assert 1 / (not fails)

    *first, last = params.STAGES
    for name in first:
        attempt(name, 2)
    (parent,), _ = runs(store)
    assert DURATION not in parent.data.metrics
    attempt(last, 3)
    (parent,), _ = runs(store)
    assert parent.data.metrics[DURATION] == 2 * len(first) + 3
    assert lasted_ms(parent) == 1000 * (2 * len(first) + 3)
    now[0] += 7_200_000
    attempt("download", 5, fails=True)  # the results are still those of the first attempt
    (parent,), _ = runs(store)
    assert parent.data.metrics[DURATION] == 2 * len(first) + 3
    attempt("download", 4)
    (parent,), (*_, newest) = runs(store)
    assert parent.data.metrics[DURATION] == 2 * len(first) + 5
    assert lasted_ms(parent) == 1000 * (2 * len(first) + 12)
    assert newest.info.start_time > parent.info.start_time + 7_200_000
    (uploaded,) = Path(".retrace/journal/uploaded").glob("*-train-*.jsonl")
    upload_again(Path(".retrace/journal", uploaded.name))
    assert len(store.get_metric_history(parent.info.run_id, DURATION)) == 2
