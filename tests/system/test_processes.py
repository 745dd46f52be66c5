"""Process identity and locks."""

import signal
import subprocess
import sys
from pathlib import Path

from repository import ROOT

from retrace.system import processes

LOCK = """
import sys, time
from pathlib import Path
from retrace.system import processes
with processes.try_lock(Path(sys.argv[1])) as locked:
    print(locked, flush=True)
    time.sleep(60)
"""
IGNORE_SIGTERM = """
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print('ready', flush=True)
time.sleep(60)
"""


def started(code: str, *words: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", code, *words]
    process = subprocess.Popen(
        command, env={"PYTHONPATH": str(ROOT / "src")}, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout
    assert process.stdout.readline() in ("True\n", "ready\n")
    return process


def test_identity_survives_being_written() -> None:
    process = processes.identity()
    assert processes.from_line(processes.to_line(process)) == process
    assert processes.alive(process)


def test_reused_pid_is_another_process() -> None:
    with started(IGNORE_SIGTERM) as process:
        earlier = processes.identity(process.pid) | {"started": 1.0}
        assert not processes.alive(earlier)
        processes.end(earlier, 0)
        assert process.poll() is None
        process.kill()


def test_end_kills_what_ignores_sigterm() -> None:
    with started(IGNORE_SIGTERM) as process:
        processes.end(processes.identity(process.pid), 0.2)
        assert process.wait(5) == -signal.SIGKILL


def test_lock_ends_with_its_process(tmp_path: Path) -> None:
    with started(LOCK, str(tmp_path)) as process:
        with processes.try_lock(tmp_path) as locked:
            assert not locked
        process.kill()
        process.wait()
    with processes.try_lock(tmp_path) as locked:
        assert locked


def test_lock_file_goes_with_its_path(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.touch()
    with processes.try_lock(path) as locked:
        assert locked
        path.unlink()
    with processes.try_lock(path) as locked:
        assert not locked
    assert list(tmp_path.iterdir()) == []
