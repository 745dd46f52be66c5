"""The background uploader: which stage waits for it, what it reports, when it ends its stage."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from faults.servers import until
from faults.stages import check_complete, event_logs, pending, stage_environment

STAGE = """
import glob, os, signal, sys, time
import psutil
import retrace
from lab import paths
from retrace import errors

def main():
    with retrace.stage(sys.argv[1]) as run:
        (uploader,) = psutil.Process().children()
        print(uploader.pid, flush=True)
        run.metrics({"raw_bytes": 1.0})
        for word in sys.argv[2:]:
            if word == "freeze":
                while not glob.glob(".retrace/journal/*.lock"):
                    time.sleep(0.05)
                uploader.suspend()
            elif word == "kill":
                uploader.kill()
            elif word == "model":
                paths.WEIGHTS.parent.mkdir()
                paths.WEIGHTS.write_bytes(b"no weights")
                paths.MODEL_CONFIG.write_bytes(b"no config")
                run.model(paths.WEIGHTS, paths.MODEL_CONFIG)
            elif word == "sleep":
                time.sleep(60)
            elif word.isdecimal():  # the uploader of an earlier stage
                while psutil.pid_exists(int(word)):
                    time.sleep(0.05)
                print(len(glob.glob(".retrace/journal/*.jsonl")), flush=True)
        paths.HISTORY.parent.mkdir(exist_ok=True)
        paths.HISTORY.write_bytes(bytes(range(256)) * 1000)
        run.artifact(paths.HISTORY, summary=True)
        run.summary({"val_loss": 0.25})

errors.run(main)
"""


# Run stages one after the other, as DVC does; each is given what the one before it printed.
DVC = """
import os, subprocess, sys

last = []
for name in sys.argv[1:]:
    env = os.environ | {"DVC_STAGE": name}
    command = [sys.executable, "stage.py", name, *last]
    printed = subprocess.run(command, env=env, check=True, stdout=subprocess.PIPE, text=True)
    last = printed.stdout.split()
print(*last)
"""


@pytest.fixture
def store(folder: Path, empty_store: Path) -> str:
    """Return the address of the store of `folder`."""
    return f"sqlite:///{shutil.copy(empty_store, folder / 'mlflow.db')}"


def start(folder: Path, *words: str, dvc: bool = True) -> "subprocess.Popen[str]":
    env = stage_environment(folder) | ({"DVC_STAGE": words[0]} if dvc else {})
    pipe = subprocess.PIPE
    command = [sys.executable, "-c", STAGE, *words]
    return subprocess.Popen(command, cwd=folder, env=env, stdout=pipe, stderr=pipe, text=True)


def run(folder: Path, *words: str, dvc: bool = True) -> tuple[int, str]:
    """Return the PID of the stage's uploader, and what the stage wrote to stderr."""
    with start(folder, *words, dvc=dvc) as stage:
        out, err = stage.communicate(timeout=120)
        assert stage.returncode == 0, err
        return int(out), err


def is_gone(pid: int) -> bool:
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def test_early_stage_does_not_wait(folder: Path, store: str) -> None:
    uploader, err = run(folder, "download", "freeze")
    assert err == ""
    assert len(pending(folder)) == 1
    psutil.Process(uploader).resume()
    until(lambda: is_gone(uploader), what="the uploader's end")
    check_complete(store, folder, event_logs(folder)[0])


def repro(folder: Path, *stages: str) -> list[str]:
    """Run stages below a process called dvc; return what the last one printed."""
    (folder / "stage.py").write_text(STAGE)
    (folder / "dvc").write_text(DVC)
    printed = subprocess.check_output(
        [sys.executable, "dvc", *stages], cwd=folder, env=stage_environment(folder), text=True
    )
    return printed.split()


def test_next_stage_uploads_a_short_one(folder: Path, store: str) -> None:
    _, n_pending = repro(folder, "download", "visualize")
    assert n_pending == "2", "when the uploader of download is gone"
    for path in event_logs(folder):
        check_complete(store, folder, path)


def test_target_stage_uploads_earlier_ones(folder: Path, store: str) -> None:
    """The last stage of `dvc repro train` does not wait, because dvc.yaml has later ones."""
    uploader, n_pending = repro(folder, "download", "train")
    assert n_pending == "2", "when the uploader of download is gone"
    until(lambda: is_gone(int(uploader)), what="the uploader's end")
    for path in event_logs(folder):
        check_complete(store, folder, path)


def test_short_stage_is_uploaded_without_next(folder: Path, store: str) -> None:
    (uploader,) = repro(folder, "download")
    until(lambda: is_gone(int(uploader)), what="the uploader's end")
    check_complete(store, folder, event_logs(folder)[0])


@pytest.mark.parametrize("dvc", [True, False])
def test_last_stage_waits(folder: Path, store: str, *, dvc: bool) -> None:
    name = "visualize" if dvc else "download"  # outside DVC, each is the last
    uploader, err = run(folder, name, dvc=dvc)
    assert err == ""
    assert is_gone(uploader)
    check_complete(store, folder, event_logs(folder)[0])


def test_stage_in_copy_waits(
    folder: Path, store: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    copy = tmp_path_factory.mktemp("copy")
    for name in ("params.yaml", "dvc.yaml"):
        shutil.copy(folder / name, copy)
    command = [sys.executable, "-c", STAGE, "download"]
    env = stage_environment(folder) | {"DVC_STAGE": "download", "DVC_ROOT": str(folder)}
    subprocess.run(command, cwd=copy, env=env, check=True, capture_output=True)
    check_complete(store, folder, event_logs(folder)[0])


def test_last_stage_waits_for_earlier_uploaders(folder: Path, store: str) -> None:
    uploader, _ = run(folder, "download", "freeze")
    with start(folder, "visualize") as stage:
        until(
            lambda: len(event_logs(folder)) == 2 and len(pending(folder)) == 1,
            what="its own upload",
        )
        assert stage.poll() is None
        psutil.Process(uploader).resume()
        _, err = stage.communicate(timeout=120)
    assert (stage.returncode, err) == (0, "")
    for path in event_logs(folder):
        check_complete(store, folder, path)


def test_last_stage_uploads_leftovers(folder: Path, store: str) -> None:
    run(folder, "download", "kill")
    assert len(pending(folder)) == 1
    _, err = run(folder, "visualize")
    assert err == ""
    for path in event_logs(folder):
        check_complete(store, folder, path)


def test_last_stage_reports_what_mlflow_lacks(folder: Path, store: str) -> None:
    uploader, err = run(folder, "train", "model")
    assert err == ""
    until(lambda: is_gone(uploader), what="the uploader's end")
    (refused,) = pending(folder)
    _, err = run(folder, "visualize")
    assert err.startswith("warning: some data of this run is not in MLflow yet (")
    assert refused in err
    assert pending(folder) == [refused]


def test_stage_ends_when_its_dvc_is_killed(folder: Path, store: str) -> None:
    (folder / "dvc").write_text(
        "import subprocess, sys\n"
        f"subprocess.run([sys.executable, '-c', {STAGE!r}, 'train', 'sleep'])"
    )
    env = stage_environment(folder) | {"DVC_STAGE": "train"}
    command = [sys.executable, str(folder / "dvc")]
    with subprocess.Popen(
        command, cwd=folder, env=env, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as dvc:
        assert dvc.stdout
        uploader = int(dvc.stdout.readline())
        (stage,) = psutil.Process(dvc.pid).children()
        time.sleep(1)  # the uploader has seen its DVC
        os.kill(dvc.pid, signal.SIGKILL)
        until(lambda: is_gone(stage.pid), within_s=5, what="the stage's end")
        until(lambda: is_gone(uploader), what="the uploader's end")
    check_complete(store, folder, event_logs(folder)[0], "KILLED")
