"""The clone that a task runs in, and what outlives it on this machine.

A folder of the user's cache belongs to each git address: DVC's cache, so that data is fetched once,
and the event logs, so that the next task uploads what a killed one could not. The clone itself is
deleted, however its task ends.
"""

import hashlib
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from retrace.pipeline import dvc_internals, git, git_patch
from retrace.pipeline.origin import check_out_origin
from retrace.system import files, processes

if TYPE_CHECKING:
    from retrace.cluster.task import Task

SHARED = ("journal", "checkpoints", "mlflow.lock")  # in .retrace: what outlives a task
UPLOADS_S = 60.0  # for background uploaders to end


@contextmanager
def repository(task: "Task") -> Iterator[Path]:
    """Yield DVC's root in a clone for one task; afterwards delete it, and end its processes.

    Raises RetraceError if it cannot be cloned.
    """
    base = files.cache("cluster") / hashlib.sha256(task.address.encode()).hexdigest()[:12]
    tasks = base / "tasks"
    processes.delete_leftovers(tasks.glob(f"*-{socket.gethostname()}-*/"), UPLOADS_S)
    # Several machines may share the user's cache, and each machine its process ids.
    tree = tasks / f"{files.file_name(task.name)}-{socket.gethostname()}-{os.getpid()}"
    top = tree / task.repository
    tree.mkdir(parents=True)
    with processes.try_lock(tree):
        try:
            _clone(task, top)
            _configure(task, top / task.inside, base)
            yield top / task.inside
        finally:
            processes.delete_folder(tree, UPLOADS_S)


def _clone(task: "Task", top: Path) -> None:
    git.run("clone", "--quiet", "--no-checkout", task.address, str(top), folder=top.parent)
    for key, value in task.author.items():
        git.run("config", key, value, folder=top)
    check_out_origin(top, task.origin)
    # New files belong to the experiment too, also those that the user's excludes name.
    git.run("add", "--all", "--force", folder=top)


def _configure(task: "Task", root: Path, base: Path) -> None:
    """Give the clone the task's remotes, and this machine's cache and event logs."""
    cache = base / "cache"
    cache.mkdir(exist_ok=True)
    dvc_internals.set_cache(root, cache)
    private = {"site_cache_dir": str(root / ".dvc/tmp/site")}  # DVC unpickles what is in it
    core = {**task.remotes["core"], **private}
    dvc_internals.set_remotes(root, {**task.remotes, "core": core})
    (root / ".retrace").mkdir(exist_ok=True)
    for name in SHARED:
        here = base / name
        here.touch() if name.endswith(".lock") else here.mkdir(exist_ok=True)
        (root / ".retrace" / name).symlink_to(here)
    git.exclude(root, *git_patch.WRITTEN_BY_US)
