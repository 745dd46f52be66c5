"""The process beside the stages of one DVC: imported once, gone with its DVC, replaced where it was killed."""

import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from faults.servers import until
from faults.stages import check_complete, journals, surroundings

from retrace.tracking import follower
from retrace.tracking.following import Door

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


@pytest.fixture
def address(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.chdir(tmp_path)  # since sockets' names are short
    return Path(".retrace/beside-here")


def knocking(address: Path) -> socket.socket:
    link = socket.socket(socket.AF_UNIX)
    link.settimeout(10)
    link.connect(str(address))
    return link


def opened(address: Path) -> Door:
    listener = follower._free(address)
    assert listener
    return Door(listener)


def test_who_comes_after_the_next_stage_is_not_kept_waiting(address: Path) -> None:
    door = opened(address)
    dvc, _ = here = os.pipe()
    with knocking(address), knocking(address) as second:
        link = door.wait(dvc)
        assert link
        door.close()
        with link, pytest.raises(ConnectionResetError):
            second.recv(1)
    assert not address.exists()
    for end in here:
        os.close(end)


def test_when_dvc_ends_nobody_is_waited_for(address: Path) -> None:
    door = opened(address)
    dvc, its_end = os.pipe()
    os.close(its_end)
    assert door.wait(dvc) is None
    os.close(dvc)
    door.close()


def test_what_took_the_place_of_one_that_did_not_answer_keeps_it(address: Path) -> None:
    silent, other = opened(address), opened(address)
    silent.close()
    with knocking(address) as link:
        assert link
    other.close()
    assert not address.exists()


def test_where_another_listens_none_does(address: Path) -> None:
    door = opened(address)
    assert follower.listening(address) is None
    door.close()


def test_nothing_is_left_of_those_that_were_killed(address: Path) -> None:
    door, killed = opened(address), address.with_name("beside-killed")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(killed))
    other = opened(address.with_name("beside-another"))
    assert not killed.exists()
    with knocking(address), knocking(other.address):
        door.close()
        other.close()
