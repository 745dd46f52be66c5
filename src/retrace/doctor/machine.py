"""Free memory and disk space."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from retrace.doctor.findings import Check, Finding, ok, problem, warning
from retrace.pipeline import dvc_internals
from retrace.system import files, machine
from retrace.system.text import count

LEAST_MEMORY = 1.5e9  # bytes that a small training needs
LEAST_DISK = 1e9  # bytes
LOW_DISK = 5e9
LEAST_TEMPORARY = 1e8
MOVE_TEMPORARY = "export TMPDIR=/var/tmp"
LEAST_FILES = 10_000  # inodes
GC = "dvc gc --workspace --all-experiments"  # asks first; removes the files of other commits too


def memory() -> Iterator[Finding]:
    """Check that enough memory is free, within a container's limit too."""
    from retrace.system import memory

    free = memory.free()
    state = f"{free / 1e9:.1f} GB of memory are free"
    if free >= LEAST_MEMORY:
        yield ok(state)
    else:
        yield warning(f"{state}; you may have to end another process first")


def disks() -> Iterator[Finding]:
    """Check that there is disk space for results, DVC's cache and downloads."""
    seen: dict[int, str] = {}
    for name, folder in {
        "this repository": Path(),
        "DVC's cache": dvc_internals.cache(),
        "downloads": files.cache("x").parent,
    }.items():
        above = (folder.absolute(), *folder.absolute().parents)
        there = next(each for each in above if each.exists())
        if there.stat().st_dev in seen:
            continue
        seen[there.stat().st_dev] = name
        free = shutil.disk_usage(there).free
        volume = os.statvfs(there)
        state = f"{free / 1e9:,.1f} GB are free for {name}, in {there}"
        if volume.f_files and volume.f_favail < LEAST_FILES:
            inodes = f"only {count(volume.f_favail, 'inode is', 'inodes are')} free"
            yield problem(f"{inodes} for {name}, in {there}", GC)
        if free < LEAST_DISK:
            yield problem(state, GC)
        elif free < LOW_DISK:
            yield warning(state, GC)
        else:
            yield ok(state)


def user() -> Iterator[Finding]:
    """Check that the user has a name and a home folder to write in, also in a container."""
    number = os.getuid()
    names = [os.environ[name] for name in machine.NAMING if os.environ.get(name)]
    if not machine.has_name() and names in ([], [str(number)]):  # the latter set by `retrace`
        state = f"user {number} has no entry in /etc/passwd and no USER, so `dvc` fails"
        yield problem(state, f"export USER=user{number}")
    home = Path.home()
    if not os.access(home, os.W_OK):
        state = f"HOME is {home}, in which user {machine.user()} can't write downloads and settings"
        yield warning(state, "export HOME=/tmp")


def temporary() -> Iterator[Finding]:
    """Check that there is a folder for temporary files, with some space."""
    try:
        folder = tempfile.gettempdir()
    except FileNotFoundError:
        yield problem("no folder for temporary files can be written", MOVE_TEMPORARY)
        return
    free = shutil.disk_usage(folder).free
    state = f"{free / 1e9:,.1f} GB are free for temporary files, in {folder}"
    if free < LEAST_TEMPORARY:
        yield problem(f"{state}; TMPDIR names another one", MOVE_TEMPORARY)
    else:
        yield ok(state)


CHECKS: dict[str, Check] = {
    "memory": memory,
    "disk": disks,
    "user": user,
    "temporary": temporary,
}
