"""A tracked stage: its event log, its runs in MLflow, its identity."""

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
from mlflow import artifacts
from mlflow.entities import Run
from repository import ROOT

import retrace
from lab import params, paths
from lab.errors import DivergedError
from lab.models import classifier
from lab.models.classifier import Card
from lab.training.state import Epoch
from retrace import errors, event_log
from retrace.event_log import EventLog
from retrace.pipeline import graph, hashing, identity, params_file
from retrace.store import backend as tracking_store
from retrace.store.runs import pair
from retrace.store.upload import Upload
from retrace.system import machine, redaction
from retrace.tracking import system_metrics

pytestmark = pytest.mark.usefixtures("beside")


@pytest.fixture
def store(folder: Path, empty_store: Path) -> mlflow.MlflowClient:
    """Return a client of the store of `folder`."""
    shutil.copy(empty_store, folder / "mlflow.db")
    return mlflow.MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")


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


def test_stage_becomes_child_run(folder: Path, store: mlflow.MlflowClient) -> None:
    paths.CONFUSION.parent.mkdir()
    with retrace.stage("evaluate") as run:
        paths.CONFUSION.write_text("actual,predicted\n")
        run.metrics({"val_loss": 2.0}, step=1)
        run.metrics({"val_loss": 1.0}, step=2)
        run.metrics({"test_accuracy": 0.5})
        run.headline({"test_accuracy": 0.5})
        run.tags(colour="red")
        run.artifact(paths.CONFUSION)
    (parent,), (child,) = runs(store)
    assert (child.info.run_name, child.info.status, parent.info.status) == (
        "evaluate",
        "FINISHED",
        "FINISHED",
    )
    curve = [
        (point.step, point.value)
        for point in store.get_metric_history(child.info.run_id, "val_loss")
    ]
    assert curve == [(1, 2.0), (2, 1.0)]
    assert parent.data.metrics == {"test_accuracy": 0.5}
    assert child.data.params == {"device": "auto", "threads": "2"}
    assert parent.data.params["models.cnn.hidden"] == "128"
    assert child.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert child.data.tags["colour"] == "red"
    assert child.data.tags["retrace.stage"] == "evaluate"
    assert child.data.tags["dvc.outs.reports/confusion.csv"] == hashing.md5(paths.CONFUSION)
    artifact = artifacts.download_artifacts(
        run_id=child.info.run_id,
        artifact_path="reports/confusion.csv",
        tracking_uri=f"sqlite:///{folder}/mlflow.db",
    )
    assert Path(artifact).read_text() == "actual,predicted\n"


@pytest.mark.parametrize(
    ("error", "status", "reason"),
    [
        (ValueError("too wet"), "FAILED", "ValueError: too wet"),
        (SystemExit(1), "FAILED", "SystemExit: 1"),
        (DivergedError("nan"), "FAILED", "DivergedError: nan"),
        (KeyboardInterrupt(), "KILLED", None),
        (errors.Terminated(), "KILLED", None),
    ],
)
@pytest.mark.usefixtures("folder")
def test_status_is_truthful(
    store: mlflow.MlflowClient, error: BaseException, status: str, reason: str | None
) -> None:
    with pytest.raises(type(error)), retrace.stage("download") as run:
        run.metrics({"raw_bytes": 1.0})
        raise error
    (parent,), (child,) = runs(store)
    assert (parent.info.status, child.info.status) == (status, status)
    assert child.data.tags.get("retrace.error") == reason
    assert child.data.metrics == {"raw_bytes": 1.0}


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
def test_upload_is_idempotent(store: mlflow.MlflowClient) -> None:
    with retrace.stage("train") as run:
        for step in range(1200):
            run.metrics({"train_loss": 1 / (step + 1)}, step)
        run.headline({"train_accuracy": 0.5})

    def rows() -> list[tuple[object, ...]]:
        with sqlite3.connect("mlflow.db") as database:
            tables = ("runs", "metrics", "params", "tags")
            queries = [f"SELECT * FROM {table} ORDER BY 1, 2, 3" for table in tables]  # noqa: S608
            return [row for query in queries for row in database.execute(query)]

    before = rows()
    upload_again(run.path)
    assert rows() == before
    assert len(store.get_metric_history(runs(store)[1][0].info.run_id, "train_loss")) == 1200


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


def test_run_outlives_its_temporary_folder(
    folder: Path,
    store: mlflow.MlflowClient,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    thrown_away = tmp_path_factory.mktemp("exps")
    for name in (paths.PARAMS, paths.GRAPH):
        shutil.copy(name, thrown_away)
    monkeypatch.setenv("DVC_ROOT", str(folder))
    monkeypatch.chdir(thrown_away)
    paths.METRICS.parent.mkdir()
    with retrace.stage("evaluate") as run:
        paths.METRICS.write_text("{}")
        run.artifact(paths.METRICS)
    shutil.rmtree(thrown_away)
    monkeypatch.chdir(folder)
    (_,), (child,) = runs(store)
    assert str(child.info.artifact_uri).startswith(f"file://{folder}/mlruns/mnist/")
    assert [file.path for file in store.list_artifacts(child.info.run_id, "reports")] == [
        "reports/metrics.json"
    ]


@pytest.mark.usefixtures("folder")
def test_missing_artifact_warns(
    store: mlflow.MlflowClient, capsys: pytest.CaptureFixture[str]
) -> None:
    with retrace.stage("evaluate") as run:
        run.artifact(paths.METRICS)
        run.metrics({"test_loss": 1.0})
    assert capsys.readouterr().err.startswith(
        "warning: reports/metrics.json: no copy for MLflow could be made"
    )
    (parent,), (child,) = runs(store)
    assert (parent.info.status, child.info.status) == ("FINISHED", "FINISHED")
    assert child.data.metrics == {"test_loss": 1.0}


@pytest.mark.usefixtures("folder")
def test_dead_server_warns_and_loses_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    with retrace.stage("download") as run:
        run.metrics({"raw_bytes": 1.0})
    warning = capsys.readouterr().err.strip()
    assert warning.startswith(
        "warning: MLflow lacks some of this run: http://127.0.0.1:9 does not answer"
    )
    assert "\n" not in warning
    assert event_log.read(run.path)[-1]["status"] == "FINISHED"


@pytest.mark.usefixtures("folder")
def test_model_belongs_to_both_runs(
    store: mlflow.MlflowClient, card_of: Callable[[str, int], Card], monkeypatch: pytest.MonkeyPatch
) -> None:
    card = card_of("cnn", 28)
    with retrace.stage("train") as run:
        model = classifier.build(card)
        classifier.save(model, card)
        run.model(paths.WEIGHTS, paths.CARD)
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


def test_datasets_and_model_metrics_are_logged(
    folder: Path, store: mlflow.MlflowClient, card_of: Callable[[str, int], Card]
) -> None:
    for path in (paths.TRAIN, paths.VALIDATION, paths.TEST):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(path.name.encode())
    card = card_of("softmax", 8)
    with retrace.stage("train") as run:
        classifier.save(classifier.build(card), card)
        run.headline({"train_loss": 0.5, "val_accuracy": 0.75})
        run.model(paths.WEIGHTS, paths.CARD)
    with retrace.stage("evaluate") as run:
        run.headline({"test_accuracy": 0.5})
    upload_again(run.path)
    (parent,), (train, evaluate) = runs(store)

    def read(run: Run) -> dict[str, tuple[str, str]]:
        given = run.inputs.dataset_inputs if run.inputs else []
        return {each.dataset.name: (each.dataset.digest, each.tags[0].value) for each in given}

    expected = {
        f"mnist {path.stem}": (hashing.md5(path), context)
        for path, context in (
            (paths.TRAIN, "training"),
            (paths.VALIDATION, "validation"),
            (paths.TEST, "testing"),
        )
    }
    assert read(parent) == expected
    assert read(train) == {name: entry for name, entry in expected.items() if entry[1] != "testing"}
    assert read(evaluate) == {
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


def test_meter_uses_names_of_mlflow() -> None:
    meter = system_metrics.Meter(os.getpid())
    first, second = meter.event(), meter.event()
    assert (first["step"], second["step"]) == (1, 2)
    assert set(second["values"]) >= {
        "system/cpu_utilization_percentage",
        "system/system_memory_usage_megabytes",
        "system/process_memory_usage_megabytes",
    }
    assert 10 < second["values"]["system/process_memory_usage_megabytes"] < 100_000


@pytest.mark.parametrize(
    ("text", "redacted"),
    [
        ("http://me:canary@host:1/x?y=1", "http://***@host:1/x?y=1"),
        ("postgresql://canary@host/db and more", "postgresql://***@host/db and more"),
        ("https://host/a?token=canary&b=2", "https://host/a?token=***&b=2"),
        ("https://host/a?X-Amz-Signature=canary", "https://host/a?X-Amz-Signature=***"),
        ("the key is canary-value", "the key is ***"),
        ("an e-mail to me@host stays", "an e-mail to me@host stays"),
    ],
)
def test_secrets_are_redacted(monkeypatch: pytest.MonkeyPatch, text: str, redacted: str) -> None:
    monkeypatch.setenv("MY_API_KEY", "canary-value")
    assert redaction.redacted(text) == redacted
    assert redaction.redacted_all({"a": [text], "b": 1}) == {"a": [redacted], "b": 1}


def test_concurrent_stages_share_one_parent(folder: Path) -> None:
    script = "import sys\nimport retrace\nwith retrace.stage(sys.argv[1]): pass"
    env = os.environ | {"PYTHONPATH": str(ROOT / "src")}

    def start(name: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", script, name],
            env=env,
            capture_output=True,
            text=True,
            check=False,
        )

    with ThreadPoolExecutor(4) as pool:
        ended = list(pool.map(start, list(params.STAGES)[:4]))
    assert [(process.returncode, process.stderr) for process in ended] == [(0, "")] * 4
    parents, children = runs(mlflow.MlflowClient(f"sqlite:///{folder / 'mlflow.db'}"))
    assert (len(parents), len(children)) == (1, 4)
    assert not list(folder.glob(".mlflow*"))
    with sqlite3.connect("mlflow.db") as database:
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)


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


def test_event_log_skips_torn_last_line(tmp_path: Path) -> None:
    record = EventLog(tmp_path, stage="train")
    record.metrics({"val_loss": 1.0}, 1)
    record.end("FINISHED")
    whole = record.path.read_bytes()
    kinds = [event["kind"] for event in event_log.read(record.path)]
    assert kinds == ["start", "metrics", "end"]
    record.path.write_bytes(whole[:-5])
    assert [event["kind"] for event in event_log.read(record.path)] == kinds[:-1]


def test_event_log_keeps_nan(tmp_path: Path) -> None:
    record = EventLog(tmp_path, stage="train")
    record.metrics({"val_loss": float("nan")})
    record.end("FAILED")
    assert np.isnan(event_log.read(record.path)[1]["values"]["val_loss"])


@pytest.mark.usefixtures("folder")
def test_key_depends_on_params_and_code(
    values: params_file.Values,
) -> None:
    Path("stages").mkdir()
    Path("stages/train.py").write_text("1")
    key = identity.key(values)
    Path("README.md").write_text("new")
    assert identity.key(dict(reversed(values.items()))) == key
    assert identity.key(values | {"lr": 0.1}) != key
    Path("stages/train.py").write_text("2")
    assert identity.key(values) != key


@pytest.mark.usefixtures("folder")
def test_key_depends_on_own_images_if_used(
    values: params_file.Values,
) -> None:
    paths.IMAGES.mkdir(parents=True)
    own = values | {"dataset": "image_folder"}
    before = identity.key(values), identity.key(own)
    (paths.IMAGES / "cat.png").write_bytes(b"miaow")
    assert identity.key(values) == before[0]
    assert identity.key(own) != before[1]


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
                run.headline({metric: accuracy})
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


@pytest.mark.usefixtures("folder")
def test_stage_files_have_choices_filled_in(
    values: params_file.Values,
) -> None:
    train = graph.stages(values | {"model": "softmax"})["train"]
    assert "src/lab/models/networks/softmax.py" in train.deps
    outs = (paths.WEIGHTS, paths.CARD, paths.HISTORY, paths.STEPS, paths.SUMMARY, paths.BATCH)
    assert train.outs == tuple(str(path) for path in outs)


def test_signal_waits_for_upload(
    store: mlflow.MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    advance = Upload.advance

    def interrupted(upload: Upload, *patience: Any) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        advance(upload, *patience)

    monkeypatch.setattr(Upload, "advance", interrupted)
    with pytest.raises(KeyboardInterrupt), retrace.stage("download"):
        pass
    (parent,), (child,) = runs(store)
    assert (parent.info.status, child.info.status) == ("FINISHED", "FINISHED")


def test_user_without_name_is_uid(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(uid: int) -> str:
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    monkeypatch.setattr("pwd.getpwuid", unknown)
    assert machine.user() == str(os.getuid())


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 143)], ids=str
)
def test_signal_sets_exit_code_and_killed(
    store: mlflow.MlflowClient, number: signal.Signals, code: int
) -> None:
    script = (
        "import time\nimport retrace\nfrom retrace import errors\n"
        "def main():\n"
        "    with retrace.stage('train'):\n"
        "        print('ready', flush=True)\n"
        "        time.sleep(60)\n"
        "errors.run(main)"
    )
    env = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    with subprocess.Popen(
        ["python", "-c", script], env=env, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
        process.send_signal(number)
        assert process.wait(60) == code
    (parent,), (child,) = runs(store)
    assert (parent.info.status, child.info.status) == ("KILLED", "KILLED")


def test_public_names_stay() -> None:
    by_epoch = list(Epoch._fields)
    assert by_epoch == ["epoch", "train_loss", "train_accuracy", "val_loss", "val_accuracy"]
    assert [
        str(path)
        for path in (paths.WEIGHTS, paths.CARD, paths.METRICS, paths.HISTORY, paths.FIGURES)
    ] == [
        "models/model.safetensors",
        "models/model.json",
        "reports/metrics.json",
        "reports/history.csv",
        "reports/figures",
    ]
