"""What workers of DVC's queue left behind: tasks without a worker, folders without a process.

DVC has no command that lists them, so they are looked up as its own code does.
"""

import time
from pathlib import Path
from typing import Any, NamedTuple

import psutil

SETUP_S = 60.0  # in which the folder of an experiment is set up


class Task(NamedTuple):
    """A task of the queue: Celery's message, DVC's entry."""

    message: Any
    entry: Any


def lost(queue: Any) -> list[Task]:
    """List the tasks that are Running but have no worker. Asking the workers takes a second."""
    processed = queue._iter_processed()
    running = [Task(message, entry) for message, entry in processed if not _is_done(message)]
    taken = queue._get_running_task_ids() if running else ()
    left = [task for task in running if task.message.headers["id"] not in taken]
    return [task for task in left if not _is_done(task.message)]  # it may have ended meanwhile


def leftovers(folder: Path) -> list[Path]:
    """List the experiments' folders in `folder` that no process is in, and that none sets up."""
    now = time.time()
    old = [path for path in folder.glob("tmp*") if now - path.stat().st_mtime > SETUP_S]
    used = [cwd for process in psutil.process_iter() if (cwd := _cwd(process))] if old else []
    return [path for path in old if not any(cwd.is_relative_to(path.resolve()) for cwd in used)]


def _is_done(message: Any) -> bool:
    from celery.result import AsyncResult

    return AsyncResult(message.headers["id"]).ready()


def _cwd(process: psutil.Process) -> Path | None:
    try:
        return Path(process.cwd())
    except (psutil.Error, OSError):
        return None
