"""A tracked stage: its event log, its runs in MLflow, its identity."""

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import mlflow
import pytest
from mlflow import artifacts
from mlflow_runs import runs
from repository import ROOT

import retrace
from lab import params, paths
from lab.errors import DivergedError
from lab.training.state import Epoch
from retrace import errors, event_log
from retrace.pipeline import hashing
from retrace.store import run_tags
from retrace.store.upload import Upload
from retrace.system import processes
from retrace.tracking import stage

pytestmark = pytest.mark.usefixtures("beside")


def test_stage_becomes_child_run(folder: Path, store: mlflow.MlflowClient) -> None:
    paths.CONFUSION.parent.mkdir()
    with retrace.stage("evaluate") as run:
        paths.CONFUSION.write_text("actual,predicted\n")
        run.metrics({"val_loss": 2.0}, step=1)
        run.metrics({"val_loss": 1.0}, step=2)
        run.metrics({"test_accuracy": 0.5})
        run.summary({"test_accuracy": 0.5})
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
    assert run_tags.hashes(child, "outs")["reports/confusion.csv"] == hashing.md5(paths.CONFUSION)
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
    warning = capsys.readouterr().err
    assert warning.startswith("warning: not recorded with this run: reports/metrics.json: ")
    assert warning.count("\n") == 1
    (parent,), (child,) = runs(store)
    assert run_tags.lost(child).keys() == {"reports/metrics.json"}
    assert (parent.info.status, child.info.status) == ("FINISHED", "FINISHED")
    assert child.data.metrics == {"test_loss": 1.0}


def commit_all(folder: Path) -> None:
    """Commit all files of the folder but those of MLflow."""
    (folder / ".gitignore").write_text("mlflow.db*\nmlruns\n.retrace\n.dvc\n")
    who = "-c user.name=me -c user.email=me@localhost"
    script = f"git init --quiet && git add --all && git {who} commit --quiet -m start"
    subprocess.run(["sh", "-c", script], check=True)


@pytest.mark.parametrize(
    ("surroundings", "lost"),
    [
        ("export GIT_TEST_ASSUME_DIFFERENT_OWNER=1", {"commit", "code.patch"}),
        ("find .git/objects -type f -delete", {"code.patch"}),
        ("truncate -s 40 .git/index", set()),
        ("git symbolic-ref HEAD refs/heads/unborn", {"commit"}),
        ("true", set()),
    ],
)
def test_refusal_of_git_is_on_the_run(
    folder: Path,
    store: mlflow.MlflowClient,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    surroundings: str,
    lost: set[str],
) -> None:
    commit_all(folder)
    name, is_variable, value = surroundings.removeprefix("export ").partition("=")
    if is_variable:
        monkeypatch.setenv(name, value)
    else:
        subprocess.run(["sh", "-c", surroundings], check=True)
    with retrace.stage("evaluate"):
        pass
    assert capsys.readouterr().err.count("warning: ") == bool(lost)
    (_,), (child,) = runs(store)
    assert child.info.status == "FINISHED"
    assert run_tags.lost(child).keys() == lost


def test_unreadable_output_is_on_the_run(
    folder: Path, store: mlflow.MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def md5(path: Path, read: Callable[[Path], str] = hashing.md5) -> str:
        if path.name == paths.CONFUSION.name:
            raise PermissionError(13, "Permission denied", str(path))
        return read(path)

    paths.CONFUSION.parent.mkdir()
    with monkeypatch.context() as denied, retrace.stage("evaluate"):
        paths.CONFUSION.write_text("actual,predicted\n")
        denied.setattr(hashing, "md5", md5)
    (_,), (child,) = runs(store)
    assert child.info.status == "FINISHED"
    assert f"hash of {paths.CONFUSION}" in run_tags.lost(child)
    assert str(paths.CONFUSION) not in run_tags.hashes(child, "outs")


def test_missing_copy_is_on_the_run(folder: Path, store: mlflow.MlflowClient) -> None:
    paths.CONFUSION.parent.mkdir()
    with retrace.stage("evaluate") as run:
        paths.CONFUSION.write_text("actual,predicted\n")
        run.artifact(paths.CONFUSION)
        event_log.copy_of(run.path, paths.CONFUSION).unlink()
        paths.CONFUSION.unlink()
    (_,), (child,) = runs(store)
    assert run_tags.lost(child).keys() == {str(paths.CONFUSION)}


@pytest.mark.usefixtures("folder")
def test_dead_server_warns_and_loses_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    with retrace.stage("download") as run:
        run.metrics({"raw_bytes": 1.0})
    warning = capsys.readouterr().err.strip()
    assert warning.startswith(
        "warning: some data of this run is not in MLflow yet (http://127.0.0.1:9 does not answer"
    )
    assert "\n" not in warning
    assert event_log.read(run.path)[-1]["status"] == "FINISHED"


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


def test_signal_waits_for_upload(
    store: mlflow.MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    advance = Upload.advance

    def interrupted(upload: Upload, *announce: Any) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        advance(upload, *announce)

    monkeypatch.setattr(Upload, "advance", interrupted)
    with pytest.raises(KeyboardInterrupt), retrace.stage("download"):
        pass
    (parent,), (child,) = runs(store)
    assert (parent.info.status, child.info.status) == ("FINISHED", "FINISHED")


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
        for path in (paths.WEIGHTS, paths.MODEL_CONFIG, paths.METRICS, paths.HISTORY, paths.FIGURES)
    ] == [
        "models/model.safetensors",
        "models/model.json",
        "reports/metrics.json",
        "reports/history.csv",
        "reports/figures",
    ]


@pytest.mark.parametrize("name", [*stage.RANKS, stage.NODE])
def test_first_rank_logs(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for other in (*stage.RANKS, stage.NODE):
        monkeypatch.delenv(other, raising=False)
    assert stage.is_first_rank()
    monkeypatch.setenv(name, "0")
    assert stage.is_first_rank()
    monkeypatch.setenv(name, "1")
    assert not stage.is_first_rank()


def test_rank_of_dvc_is_not_the_stage_s(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "dvc_above", processes.identity)
    monkeypatch.setattr(processes, "environment", lambda _: {"SLURM_PROCID": "3"})
    monkeypatch.setenv("SLURM_PROCID", "3")
    assert stage.is_first_rank()
    monkeypatch.setenv("RANK", "1")
    assert not stage.is_first_rank()


def test_other_node_logs_nothing_below_its_dvc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "dvc_above", processes.identity)
    monkeypatch.setattr(processes, "environment", lambda _: {stage.NODE: "1"})
    monkeypatch.setenv(stage.NODE, "1")
    assert not stage.is_first_rank()
