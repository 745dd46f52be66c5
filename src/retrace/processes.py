"""Which process it is, told so that it can be told from another one that has its number later; and what is one
process's alone.
"""

import fcntl
import hashlib
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

POLL_S = 0.05
BOOT = Path("/proc/sys/kernel/random/boot_id")
MACHINE = Path("/etc/machine-id")

Identity = dict[str, Any]


def identity(pid: int | None = None) -> Identity:
    """Of this process, or of `pid`: host, boot, number and start. Raises psutil.NoSuchProcess."""
    process = psutil.Process(pid)
    return {"host": _host(), "boot": _boot(), "pid": process.pid, "started": _started(process)}


def alive(who: Identity) -> bool:
    """Whether that process still runs; of one on another machine nothing is known, so it is taken to."""
    if who["host"] not in (_host(), socket.gethostname()):  # the latter by older code
        return True
    if who["boot"] != _boot():
        return False
    try:
        process = psutil.Process(who["pid"])
        return _started(process) == who["started"] and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def written(who: Identity) -> str:
    """In a line, which `read` understands."""
    return f"{who['host']} {who['boot']} {who['pid']} {who['started']}"


def read(line: str) -> Identity:
    host, boot, pid, started = line.split(" ")
    return {"host": host, "boot": boot, "pid": int(pid), "started": float(started)}


def dvc_above(pid: int) -> int | None:
    """The nearest process above `pid` that is DVC, if there is one."""
    try:
        above = psutil.Process(pid).parents()
    except psutil.NoSuchProcess:
        return None
    return next((process.pid for process in above if _is_dvc(process.pid)), None)


def words(pid: int) -> list[str]:
    """The command line of that process, none of one that is gone."""
    try:
        return psutil.Process(pid).cmdline()
    except psutil.Error:
        return []


@contextmanager
def alone(path: Path, within: float = 0.0) -> Iterator[bool]:
    """Whether the file or folder at `path` is this process's alone for as long as the context lasts; others may have it
    for `within` seconds. Not if there is no such file.
    """
    try:
        opened = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)  # NFS locks only what can be written
    except FileNotFoundError:
        yield False
        return
    try:
        yield _locked(opened, time.monotonic() + within)
    finally:
        os.close(opened)


def _locked(opened: int, until: float) -> bool:
    while True:
        try:
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= until:
                return False
            time.sleep(POLL_S)
        except OSError:  # a file system without locks
            return True
        else:
            return True


def _is_dvc(pid: int) -> bool:
    return any(Path(word).name == "dvc" for word in words(pid)[:4])


def _started(process: psutil.Process) -> float:
    """Ticks from the boot on, which stay what they are when the clock is set; elsewhere, seconds since 1970."""
    if not BOOT.exists():
        return process.create_time()
    try:
        return float(Path(f"/proc/{process.pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[19])
    except (FileNotFoundError, ProcessLookupError):
        raise psutil.NoSuchProcess(process.pid) from None


def _host() -> str:
    """The machine: a name alone may be that of several, and their boots would tell each that the other's runs are over.
    What its manual wants kept secret is hashed.
    """
    number = MACHINE.read_bytes() if MACHINE.exists() else b""
    return f"{socket.gethostname()}/{hashlib.sha256(number).hexdigest()[:8]}"


def _boot() -> str:
    return BOOT.read_text(encoding="ascii").strip() if BOOT.exists() else str(int(psutil.boot_time()))
