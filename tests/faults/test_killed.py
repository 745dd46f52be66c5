"""However a stage ends, MLflow has its true status, and no run stays RUNNING."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from mlflow.entities import Run
from repository import Clone

from faults.servers import until
from faults.stages import Stage, check_complete, child, events_in, find_runs, parents, pending, sync
from retrace import event_log
from retrace.system import processes

WITHOUT_STATUS = (
    "the process ended without a status: it was killed (SIGKILL, out of memory), or the machine "
    "lost power"
)
SOON_S = 30.0  # in which nothing runs any more whose DVC no longer exists


def test_killed_stage_is_killed_in_mlflow(folder: Path, local: str) -> None:
    with Stage(folder) as stage:
        stage.tell("epoch 1")
        stage.tell("epoch 2")
        assert stage.kill() == -signal.SIGKILL
        until(lambda: not pending(folder), what="the end of the upload")
    run = check_complete(local, folder, stage.log, "KILLED")
    assert run.data.tags["retrace.error"] == WITHOUT_STATUS
    assert run.data.metrics["val_loss"] == 1.0
    assert [above.info.status for above in parents(local, folder)] == ["KILLED"]


@pytest.mark.faults
@pytest.mark.parametrize("closed_by", ["the next stage", "sync"])
def test_killed_stage_and_uploader_are_closed(folder: Path, local: str, closed_by: str) -> None:
    with Stage(folder) as stage:
        stage.tell("epoch 1")
        until(lambda: find_runs(local, journal=stage.log.stem), what="its run")
        stage.kill_uploader()
        assert stage.kill() == -signal.SIGKILL
        assert child(local, stage.log).info.status == "RUNNING"
    if closed_by == "sync":
        sync(folder)
        expected = "KILLED"
    else:
        with Stage(folder) as another:
            until(lambda: stage.log.name not in pending(folder), what="the upload")
            another.end()
        expected = "FINISHED"
    run = check_complete(local, folder, stage.log, "KILLED")
    assert run.data.tags["retrace.error"] == WITHOUT_STATUS
    assert [above.info.status for above in parents(local, folder)] == [expected]


@pytest.mark.faults
def test_running_stage_is_not_closed(folder: Path, local: str) -> None:
    with Stage(folder) as stage:
        stage.tell("epoch 1")
        until(lambda: find_runs(local, journal=stage.log.stem), what="its run")
        stage.kill_uploader()  # so that nobody but the stage itself stands for its life
        with Stage(folder, "evaluate") as another:
            another.end()
        assert "is still running" in sync(folder)
        assert child(local, stage.log).info.status == "RUNNING"
        assert [run.info.status for run in parents(local, folder)] == ["RUNNING"]
        stage.tell("epoch 2")
        stage.end()
        assert stage.stderr.startswith(
            "warning: some data of this run is not in MLflow yet (the background uploader was"
        )
    sync(folder)
    check_complete(local, folder, stage.log)


@pytest.mark.faults
def test_reused_pid_is_another_process(folder: Path, local: str) -> None:
    with Stage(folder) as stage:
        stage.tell("epoch 1")
        stage.kill_uploader()
        stage.kill()
    start, *others = stage.log.read_text().splitlines()
    changed = json.loads(start)
    changed["process"] |= {"pid": os.getpid()}  # which started at another time, and lives
    stage.log.write_text("\n".join([json.dumps(changed), *others, ""]))
    sync(folder)
    check_complete(local, folder, stage.log, "KILLED")


@pytest.mark.faults
def test_identity_survives_clock_change(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    who = processes.identity()
    booted = psutil.boot_time()
    monkeypatch.setattr(psutil, "boot_time", lambda: booted + 7)
    monkeypatch.setattr("psutil._pslinux.boot_time", lambda: booted + 7)
    assert processes.alive(who)


@pytest.mark.faults
@pytest.mark.parametrize(
    ("strike", "code", "status", "error"),
    [
        ("raise too wet", 1, "FAILED", "ValueError: too wet"),
        ("exit 1", 1, "FAILED", "SystemExit: 1"),
        (signal.SIGINT, 130, "KILLED", None),
        (signal.SIGTERM, 143, "KILLED", None),
        (signal.SIGHUP, 143, "KILLED", None),
    ],
    ids=str,
)
def test_exit_code_matches_status(
    folder: Path,
    local: str,
    strike: str | signal.Signals,
    code: int,
    status: str,
    error: str | None,
) -> None:
    with Stage(folder) as stage:
        stage.tell("epoch 1")
        if isinstance(strike, signal.Signals):
            assert stage.kill(strike) == code
        else:
            stage.tell(strike, answered=False)
            assert stage.process.wait(120) == code
        assert "warning" not in stage.stderr
    run = check_complete(local, folder, stage.log, status)
    assert run.data.tags.get("retrace.error") == error
    assert [above.info.status for above in parents(local, folder)] == [status]


@pytest.mark.faults
def test_late_metrics_keep_status(folder: Path, local: str) -> None:
    with Stage(folder, MLFLOW_TRACKING_URI="http://127.0.0.1:9") as stage:
        stage.end()
    late = {
        "kind": "metrics",
        "time": events_in(folder, stage.log.name)[-1]["time"],
        "step": 9,
        "values": {"late": 1.0},
    }
    event_log.append(stage.log, late)
    sync(folder)
    assert child(local, stage.log).info.status == "FINISHED"
    assert child(local, stage.log).data.metrics["late"] == 1.0


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clone]:
    """Yield a clone in which training on the digits takes long."""
    small = {
        "dataset: mnist": "dataset: digits",
        "epochs: 5": "epochs: 5000",
        "threads: 2": "threads: 1",
    }
    clone = Clone(tmp_path_factory.mktemp("clone"), tmp_path_factory.mktemp("cache"), small)
    yield clone
    clone.type("dvc queue stop --kill || true")


def train_runs(clone: Clone) -> list[Run]:
    if not (clone.path / "mlflow.db").exists():
        return []
    return find_runs(f"sqlite:///{clone.path / 'mlflow.db'}", stage="train")


def training(clone: Clone) -> list[psutil.Process]:
    """List the training processes of this clone and their uploaders."""
    theirs = []
    for process in psutil.process_iter(["cmdline", "environ"]):
        words = process.info["cmdline"] or []
        env = process.info["environ"] or {}
        ours = env.get("DVC_ROOT") == str(clone.path)
        if ours and {"stages/train.py", "retrace.tracking.uploader"} & set(words):
            theirs.append(process)
    return theirs


def check_nothing_runs(clone: Clone, before: int) -> None:
    """Check that no training runs soon, and that the run of the last one is KILLED."""
    began = time.monotonic()
    until(lambda: not training(clone), SOON_S, "the end of training")
    until(
        lambda: not event_log.pending(clone.path / ".retrace/journal"),
        SOON_S,
        "the end of the upload",
    )
    assert time.monotonic() - began <= SOON_S
    store = f"sqlite:///{clone.path / 'mlflow.db'}"
    runs = train_runs(clone)
    assert [run.info.status for run in runs[before:]] == ["KILLED"]
    assert {"RUNNING"}.isdisjoint(run.info.status for run in parents(store, clone.path))


@pytest.mark.faults
@pytest.mark.xdist_group("long training")
def test_killed_dvc_ends_its_stage(clone: Clone) -> None:
    with subprocess.Popen(
        ["dvc", "repro"],
        cwd=clone.path,
        env=clone.env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        assert process.stdout
        assert any(line.startswith("epoch 1/") for line in process.stdout)
        until(lambda: train_runs(clone), what="the run")
        process.kill()
        check_nothing_runs(clone, before=0)


@pytest.mark.faults
@pytest.mark.xdist_group("long training")
def test_queue_kill_leaves_nothing_running(clone: Clone) -> None:
    before = len(train_runs(clone))
    clone.type("dvc exp run --queue --name long -S lr=0.02")
    clone.type("dvc queue start > /dev/null 2>&1 &")  # it lasts as long as its worker
    until(
        lambda: len(train_runs(clone)) > before, 120, "the queued experiment's training", every_s=1
    )
    clone.type("dvc queue kill --force long")
    check_nothing_runs(clone, before)
