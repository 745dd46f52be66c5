"""Process identity that survives PID reuse, and locks that end with their process."""

import ctypes
import hashlib
import os
import shutil
import signal
import socket
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
from filelock import FileLock, Timeout

BOOT = Path("/proc/sys/kernel/random/boot_id")
MACHINE = Path("/etc/machine-id")
PR_SET_PDEATHSIG = 1  # of prctl(2)
LIBC = ctypes.CDLL(None)
POLL_S = 0.5
WATCH = """
import os, sys, time, psutil
child, parent, number = map(int, sys.argv[1:4])
while os.getppid() == child:
    if psutil.Process(child).ppid() != parent:
        os.kill(child, number)
        break
    time.sleep(float(sys.argv[4]))
"""

Identity = dict[str, Any]


def identity(pid: int | None = None) -> Identity:
    """Return host, boot, PID and start time of the process `pid`, by default this one.

    Raises psutil.NoSuchProcess.
    """
    process = psutil.Process(pid)
    return {"host": _host(), "boot": _boot(), "pid": process.pid, "started": _started(process)}


def alive(who: Identity) -> bool:
    """Return whether this very process is running. One on another machine counts as running."""
    if who["host"] not in (_host(), socket.gethostname()):  # older versions wrote the bare name
        return True
    if who["boot"] != _boot():
        return False
    try:
        process = psutil.Process(who["pid"])
        return _started(process) == who["started"] and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def end(who: Identity, grace_s: float) -> None:
    """Terminate that process if it is alive, and kill it if it still is `grace_s` later."""
    if not alive(who):
        return
    with suppress(psutil.NoSuchProcess):
        process = psutil.Process(who["pid"])
        process.terminate()
        try:
            process.wait(grace_s)
        except psutil.TimeoutExpired:
            process.kill()


def die_with_parent(number: int = signal.SIGKILL) -> None:
    """Make this process get a signal when its parent ends; for `preexec_fn` of a child.

    Linux sends it; elsewhere a process that polls the parent does, within POLL_S.
    """
    if hasattr(LIBC, "prctl"):
        LIBC.prctl(PR_SET_PDEATHSIG, number)
        return
    words = [sys.executable, "-c", WATCH, *map(str, (os.getpid(), os.getppid(), number, POLL_S))]
    # Not this process's output: who reads it would wait for the watcher, too.
    silent = [(os.POSIX_SPAWN_OPEN, each, os.devnull, os.O_RDWR, 0) for each in range(3)]
    os.posix_spawn(sys.executable, words, os.environ, file_actions=silent)


def working_in(folder: Path) -> list[psutil.Process]:
    """Return the processes whose working directory is in a folder, without this one."""
    inside: list[psutil.Process] = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if process.pid != os.getpid() and Path(process.cwd()).is_relative_to(folder):
                inside.append(process)
    return inside


def delete_folder(folder: Path, ends_s: float) -> None:
    """Delete a folder once no process works in it; after `ends_s` seconds, kill those that do."""
    until = time.monotonic() + ends_s
    while left := working_in(folder):
        if time.monotonic() > until:
            for process in left:
                process.kill()
        psutil.wait_procs(left, timeout=0.5)
    shutil.rmtree(folder, ignore_errors=True)
    if folder.exists():  # a process outside of it, such as one that just ended, wrote a file
        shutil.rmtree(folder)


def delete_leftovers(folders: Iterable[Path], ends_s: float) -> None:
    """Delete the folders that other processes, which were killed, left, or this one before.

    A folder's name ends in `-` and its process's id.
    """
    for folder in folders:
        pid = int(folder.name.rpartition("-")[2])
        if pid != os.getpid() and psutil.pid_exists(pid):
            continue  # it may not have locked its folder yet
        with try_lock(folder) as free:
            if free:
                delete_folder(folder, ends_s)


def to_line(who: Identity) -> str:
    """Return the identity as one line, for `from_line`."""
    return f"{who['host']} {who['boot']} {who['pid']} {who['started']}"


def from_line(line: str) -> Identity:
    """Return the identity in a line of `to_line`."""
    host, boot, pid, started = line.split(" ")
    return {"host": host, "boot": boot, "pid": int(pid), "started": float(started)}


def dvc_above() -> Identity | None:
    """Return the identity of the nearest DVC process above this one, if there is one."""
    for process in psutil.Process().parents():
        with suppress(psutil.Error):
            if _is_dvc(process):
                return identity(process.pid)
    return None


def is_above(who: Identity) -> bool:
    """Return whether that process started this one, with no DVC between them.

    If there is no DVC above at all, a launcher such as srun may be between them: it is enough
    then that the process is alive.
    """
    for process in psutil.Process().parents():
        with suppress(psutil.Error):
            if process.pid == who["pid"] and identity(process.pid) == who:
                return True
            if _is_dvc(process):
                return False
    return alive(who)


def folder(who: Identity) -> Path:
    """Return the working directory of a process."""
    return Path(psutil.Process(who["pid"]).cwd())


def environment(who: Identity) -> dict[str, str]:
    """Return the environment that a process was started with; empty if it is not readable."""
    with suppress(psutil.Error):
        return psutil.Process(who["pid"]).environ()
    return {}


@contextmanager
def try_lock(path: Path, timeout_s: float = 0.0) -> Iterator[bool]:
    """Lock the file or folder at `path`; yield whether this process has the lock.

    It does not get the lock if another process still holds it after `timeout_s`, or if there is no
    such path. The lock file is next to `path` and is removed once `path` no longer exists.
    """
    if not path.exists():
        yield False
        return
    lock = FileLock(f"{path}.lock")
    try:
        lock.acquire(timeout=timeout_s)
    except (Timeout, FileNotFoundError):  # the latter if the folder of `path` is removed meanwhile
        yield False
        return
    try:
        yield path.exists()
    finally:
        if not path.exists():
            Path(lock.lock_file).unlink(missing_ok=True)
        lock.release()


def _is_dvc(process: psutil.Process) -> bool:
    return any(Path(word).name == "dvc" for word in process.cmdline()[:4])


def _started(process: psutil.Process) -> float:
    """Return the seconds from boot to start, which stay the same when the clock is set."""
    return round(process.create_time() - psutil.boot_time(), 2)


def _host() -> str:
    """Return the machine's name and a hash of its ID, because machines may share a name.

    machine-id(5) asks to keep the ID itself secret.
    """
    machine = MACHINE.read_bytes() if MACHINE.exists() else b""
    return f"{socket.gethostname()}/{hashlib.sha256(machine).hexdigest()[:8]}"


def _boot() -> str:
    """Return an id that is different after each boot."""
    if BOOT.exists():
        return BOOT.read_text(encoding="ascii").strip()
    return str(int(psutil.boot_time()))
