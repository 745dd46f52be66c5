"""DVC's queue as its workers left it: tasks that no worker has, folders that nobody uses.

DVC has no command that tells them, so they are found as its own code does it.
"""

import time
from pathlib import Path
from typing import Any, NamedTuple

import psutil

SETUP_S = 60.0  # in which an experiment's folder is set up


class Task(NamedTuple):
    """A task of the queue: celery's message, DVC's entry."""

    message: Any
    entry: Any


def lost(queue: Any) -> list[Task]:
    """Those that are Running, and that no worker has. Asks the workers, for a second, where any is Running."""
    running = [Task(message, entry) for message, entry in queue._iter_processed() if not _is_done(message)]
    taken = queue._get_running_task_ids() if running else ()
    left = [task for task in running if task.message.headers["id"] not in taken]
    return [task for task in left if not _is_done(task.message)]  # nor has it ended while they were asked


def leftovers(folder: Path) -> list[Path]:
    """Of the experiments' folders in `folder` those in which no process is, and that nobody sets up just now."""
    found = [each for each in folder.glob("tmp*") if time.time() - each.stat().st_mtime > SETUP_S]
    used = [place for process in psutil.process_iter() if (place := _folder(process))] if found else []
    return [each for each in found if not any(place.is_relative_to(each.resolve()) for place in used)]


def _is_done(message: Any) -> bool:
    from celery.result import AsyncResult

    return AsyncResult(message.headers["id"]).ready()


def _folder(process: psutil.Process) -> Path | None:
    try:
        return Path(process.cwd())
    except (psutil.Error, OSError):
        return None
