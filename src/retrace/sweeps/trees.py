"""Where trials run: a repository of their own, with the code and parameters of when the sweep began.

DVC sets up an experiment in the repository's own work tree, which it changes, stashes and resets for that. A sweep does
it some thirty times, for hours, while somebody works there; and a kill in such a moment leaves their changes in a
stash. So each trial has a repository aside, with the same objects and the same cache, and brings back what it made.
Whatever ends a trial, all that is left of it is in there.
"""

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from retrace import files, lineage, processes
from retrace.errors import RetraceError
from retrace.provenance import rebuild
from retrace.provenance.rebuild import Origin

FOLDER = Path(".retrace/sweeps")
SHARED = ("journal", "checkpoints", "programs", "mlflow.lock")  # in .retrace: what outlives a trial, and its lock
ENDS_S = 30.0  # in which a stage is over that was told to end


def folder(sweep: str) -> Path:
    """Of a sweep: its trees, and what those trials said that failed."""
    return files.root() / FOLDER / sweep


def cache() -> Path:
    """DVC's cache."""
    from dvc.repo import Repo

    with Repo(".") as repo:
        return Path(repo.cache.local_cache_dir)


def origin() -> Origin:
    """The code and parameters here and now. Raises RetraceError where there is no commit to make experiments of."""
    commit = lineage.commit()
    if commit is None:
        raise RetraceError(f"{files.root()}: has no commit yet, which an experiment needs; commit, and type this again")
    return Origin(commit, lineage.changes())


@contextmanager
def grown(name: str, sweep: str, origin: Origin, cache: Path) -> Iterator[Path]:
    """Yield a repository for one trial; afterwards it is gone, and so is every process in it."""
    tree = folder(sweep) / f"tree-{name}-{os.getpid()}"
    tree.mkdir(parents=True)
    with processes.try_lock(tree):
        try:
            rebuild.share_objects(tree)
            rebuild.check_out(tree, origin)
            git(tree, "add", "--all")  # a new file too is of the experiment
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
    """The commit of the experiment `name`, which the repository at hand now has too; None where there is none."""
    ref = git(tree, "for-each-ref", "--format=%(refname)", f"refs/exps/*/*/{name}").strip()
    if not ref:
        return None
    git(files.root(), "fetch", "--quiet", "--no-write-fetch-head", "--no-auto-gc", str(tree), f"+{ref}:{ref}")
    return git(files.root(), "rev-parse", ref).strip()


def git(where: Path, *command: str) -> str:
    """What git said. Raises RetraceError with its complaint."""
    asked = subprocess.run(["git", *command], cwd=where, capture_output=True, text=True, check=False)
    if asked.returncode:
        raise RetraceError(f"git {command[0]} ended with {asked.returncode}: {' '.join(asked.stderr.split())}")
    return asked.stdout


def _configure(tree: Path, cache: Path) -> None:
    """DVC has the user's settings and cache there; stages tell and save themselves where all do."""
    from dvc.config import Config

    local = Path(".dvc/config.local")
    if local.exists():
        shutil.copy(local, tree / local)
    with Config(dvc_dir=str(tree / ".dvc")).edit("local") as opened:
        settings: Any = opened  # of DVC, which types do not know
        settings.setdefault("cache", {})["dir"] = str(cache)
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
