"""The process beside the stages of one DVC: imported once, gone with its DVC, replaced where it was killed."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from faults.servers import until
from faults.stages import check_complete, journals, surroundings

STAGE = """
import os, signal, sys
from retrace import paths, tracking
beside = tracking.start()
print(beside.pid, flush=True)
with tracking.stage(sys.argv[1], beside) as run:
    run.metrics({"raw_bytes": 1.0})
    if sys.argv[1:] == ["download", "busy"]:
        os.kill(beside.pid, signal.SIGSTOP)  # as long as an import that lets no other thread run
    if sys.argv[1] == "train":
        paths.HISTORY.parent.mkdir(exist_ok=True)
        paths.HISTORY.write_bytes(bytes(range(256)) * 1000)
        run.artifact(paths.HISTORY, headline=True)
        run.headline({"val_loss": 0.25})
"""

# What DVC is to its stages: a process of that name above them, one stage after the other, a variable that differs.
DVC = f"""
import glob, os, signal, subprocess, sys, threading, time
for number, name in enumerate(["download", "train"]):
    command = [sys.executable, "-c", {STAGE!r}, name, *sys.argv[1:]]
    env = os.environ | {{"DVC_STAGE": name}} | ({{"ANOTHER": name}} if "another" in sys.argv else {{}})
    said = subprocess.run(command, check=True, stdout=subprocess.PIPE, env=env, text=True).stdout
    print(said, end="", flush=True)
    if "busy" in sys.argv:
        threading.Timer(1.0, os.kill, (int(said), signal.SIGCONT)).start()
    if "kill" in sys.argv:
        while glob.glob(".retrace/journal/*.jsonl"):  # it has been left with the journal
            time.sleep(0.05)
        os.kill(int(said), signal.SIGKILL)
sys.stdin.read()
"""


def run(folder: Path, *how: str) -> "subprocess.Popen[str]":
    (folder / "dvc").write_text(DVC)
    command = [sys.executable, str(folder / "dvc"), *how]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=folder, env=surroundings(folder), stdin=pipe, stdout=pipe, text=True)


def is_gone(pid: int) -> bool:
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


@pytest.mark.parametrize("how", ["", "busy", "kill", "another"])
def test_the_stages_of_one_dvc_have_one_process_beside_them(folder: Path, empty_store: Path, how: str) -> None:
    shutil.copy(empty_store, folder)
    with run(folder, how) as dvc:
        assert dvc.stdin
        assert dvc.stdout
        first, second = (int(dvc.stdout.readline()) for _ in range(2))
        assert (first == second) == (how in {"", "busy"})
        until(
            lambda: len(journals(folder)) == 2 and not list((folder / ".retrace/journal").glob("*.jsonl")), what="both"
        )
        if how == "kill":
            until(lambda: is_gone(second), what="the end of what was killed")
        assert is_gone(second) == (how == "kill")
        dvc.stdin.close()
        assert dvc.wait(30) == 0
    until(lambda: is_gone(first) and is_gone(second), what="the end of what waits for the next stage")
    assert not list(folder.glob(".retrace/beside-*")) or how == "kill"
    train = next(path for path in journals(folder) if "-train-" in path.name)
    check_complete(f"sqlite:///{folder / 'mlflow.db'}", folder, train)


def test_without_dvc_it_ends_with_its_stage(folder: Path, empty_store: Path) -> None:
    shutil.copy(empty_store, folder)
    command = [sys.executable, "-c", STAGE, "download"]
    said = subprocess.run(command, cwd=folder, env=surroundings(folder), check=True, capture_output=True, text=True)
    assert said.stderr == ""
    until(lambda: is_gone(int(said.stdout)), what="its end")


def test_it_is_gone_when_its_dvc_is_killed(folder: Path, empty_store: Path) -> None:
    shutil.copy(empty_store, folder)
    with run(folder) as dvc:
        assert dvc.stdout
        pid = int(dvc.stdout.readline())
        assert int(dvc.stdout.readline()) == pid
        os.kill(dvc.pid, signal.SIGKILL)
        until(lambda: is_gone(pid), what="its end")
