"""Where trials run: a repository of their own, with the code and parameters of when the sweep began.

DVC sets up an experiment in the repository's own work tree, which it changes, stashes and resets for that. A sweep does
it some thirty times, for hours, while somebody works there; and a kill in such a moment leaves their changes in a
stash. So each trial has a repository aside, with the same objects and the same cache, and brings back what it made.
Whatever ends a trial, all that is left of it is in there.
"""

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from retrace import dvc_internals, files, git, processes
from retrace.errors import RetraceError
from retrace.provenance import rebuild
from retrace.provenance.rebuild import Origin

FOLDER = Path(".retrace/sweeps")
SHARED = ("journal", "checkpoints", "programs", "mlflow.lock")  # in .retrace: what outlives a trial, and its lock
ENDS_S = 30.0  # in which a stage is over that was told to end


def folder(sweep: str) -> Path:
    """Of a sweep: its trees, and what those trials said that failed."""
    return files.root() / FOLDER / sweep


def origin() -> Origin:
    """The code and parameters here and now. Raises RetraceError where there is no commit to make experiments of."""
    commit = git.head_commit()
    if commit is None:
        raise RetraceError(f"{files.root()}: has no commit yet, which an experiment needs; commit, and type this again")
    return Origin(commit, git.uncommitted_patch())


@contextmanager
def grown(name: str, sweep: str, origin: Origin, cache: Path) -> Iterator[Path]:
    """Yield a repository for one trial; afterwards it is gone, and so is every process in it."""
    tree = folder(sweep) / f"tree-{name}-{os.getpid()}"
    tree.mkdir(parents=True)
    with processes.try_lock(tree):
        try:
            rebuild.share_objects(tree)
            rebuild.check_out(tree, origin)
            git.run("add", "--all", folder=tree)  # a new file too is of the experiment
            _configure(tree, cache)
            yield tree
        finally:
            _fell(tree)


def clear(sweep: str) -> None:
    """The trees of processes that were killed are gone. What still works in them has saved itself before."""
    for tree in folder(sweep).glob("tree-*/"):
        with processes.try_lock(tree) as free:
            if free:
                _fell(tree)


def bring(tree: Path, name: str) -> str | None:
    """Copy the experiment `name` into the repository at hand; return its commit, None without one."""
    return git.fetch_experiment(name, tree, files.root())


def _configure(tree: Path, cache: Path) -> None:
    """DVC has the user's settings and cache there; stages tell and save themselves where all do."""
    local = Path(".dvc/config.local")
    if local.exists():
        shutil.copy(local, tree / local)
    dvc_internals.set_cache(tree, cache)
    for name in SHARED:
        here = files.root() / ".retrace" / name
        here.touch() if name.endswith(".lock") else here.mkdir(parents=True, exist_ok=True)
        there = tree / ".retrace" / name
        there.parent.mkdir(exist_ok=True)
        there.symlink_to(here)


def _fell(tree: Path) -> None:
    until = time.monotonic() + ENDS_S
    while left := [process for process in psutil.process_iter() if _is_in(process, tree)]:
        if time.monotonic() > until:
            for process in left:
                process.kill()
        psutil.wait_procs(left, timeout=0.5)
    shutil.rmtree(tree)


def _is_in(process: psutil.Process, tree: Path) -> bool:
    try:
        return process.pid != os.getpid() and Path(process.cwd()).is_relative_to(tree)
    except (psutil.Error, OSError):
        return False
