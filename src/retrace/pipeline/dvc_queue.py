"""Find what workers of DVC's queue left behind: tasks without a worker, folders without a process.

DVC has no command that lists them, so they are found in the same way as in its own code.
"""

import time
from pathlib import Path
from typing import Any

import psutil

from retrace.pipeline import dvc_internals
from retrace.pipeline.dvc_internals import Task

SETUP_S = 60.0  # the folder of an experiment is set up within this time


def lost(queue: Any) -> list[Task]:
    """List the tasks that are Running but have no worker. Asking the workers takes a second."""
    running = [task for task in dvc_internals.taken_tasks(queue) if not _is_done(task.message)]
    ids = dvc_internals.tasks_of_workers(queue) if running else ()
    left = [task for task in running if task.message.headers["id"] not in ids]
    return [task for task in left if not _is_done(task.message)]  # a task may have ended meanwhile


def leftovers(folder: Path) -> list[Path]:
    """List the experiments' folders in `folder` that no process uses or is setting up."""
    now = time.time()
    old = [path for path in folder.glob("tmp*") if now - path.stat().st_mtime > SETUP_S]
    folders = filter(None, map(_cwd, psutil.process_iter())) if old else ()
    used = list(folders)
    return [path for path in old if not any(cwd.is_relative_to(path.resolve()) for cwd in used)]


def _is_done(message: Any) -> bool:
    from celery.result import AsyncResult

    return AsyncResult(message.headers["id"]).ready()


def _cwd(process: psutil.Process) -> Path | None:
    try:
        return Path(process.cwd())
    except (psutil.Error, OSError):
        return None
