"""Repositories that trials run in, with the code and parameters of the sweep's start.

DVC sets up an experiment in the repository's own work tree, which it changes, stashes and resets.
A sweep would do that some thirty times, for hours, while the user works there; a kill in between
would leave the user's changes in a stash. So each trial has its own repository, with the same git
objects and the same DVC cache, and its experiment is fetched from there. However a trial ends, its
leftovers are in that repository only.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from retrace.pipeline import dvc_internals, git
from retrace.pipeline.origin import Origin, check_out_origin
from retrace.provenance import reproduce
from retrace.system import files, processes

FOLDER = Path(".retrace/sweeps")
# In .retrace: what outlives a trial, and the lock of the store.
SHARED = ("journal", "checkpoints", "mlflow.lock")
ENDS_S = 30.0  # for a stage to end on SIGTERM


def sweep_folder(sweep: str) -> Path:
    """Return the folder of a sweep, with its repositories and the output of failed trials."""
    return files.root() / FOLDER / sweep


def trial_log(sweep: str, name: str) -> Path:
    """Return where the output of a trial is kept if it fails."""
    return sweep_folder(sweep) / f"{name}.log"


@contextmanager
def trial_repository(name: str, sweep: str, origin: Origin, cache: Path) -> Iterator[Path]:
    """Yield DVC's root in a repository for one trial; afterwards delete it.

    Every process in it is ended. Its folder has the name of this repository's, which is that of the
    MLflow experiment by default.
    """
    tree = sweep_folder(sweep) / f"tree-{name}-{os.getpid()}"
    root = files.root()
    inside = Path(git.inside(root))
    top = tree / (root, *root.parents)[len(inside.parts)].name
    top.mkdir(parents=True)
    with processes.try_lock(tree):
        try:
            reproduce.share_objects(top)
            check_out_origin(top, origin)
            # New files belong to the experiment too, also those that the user's excludes name.
            git.run("add", "--all", "--force", folder=top)
            _configure(top / inside, cache)
            yield top / inside
        finally:
            processes.delete_folder(tree, ENDS_S)


def remove_leftovers(sweep: str) -> None:
    """Delete the repositories of killed processes.

    A process that still runs in one may save a checkpoint first.
    """
    processes.delete_leftovers(sweep_folder(sweep).glob("tree-*/"), ENDS_S)


def fetch(tree: Path, name: str) -> str | None:
    """Copy the experiment `name` into the current repository.

    Return its commit, or None if there is none.
    """
    top = git.run("rev-parse", "--show-toplevel", folder=tree).decode().rstrip("\n")
    return git.fetch_experiment(name, Path(top), files.root())


def _configure(tree: Path, cache: Path) -> None:
    """Give the repository the user's DVC settings and cache, and the shared folders of .retrace."""
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
