"""`retrace reconcile`: DVC's queue after its workers or the machine went down, usable again."""

import os
import shutil
import signal
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

SETUP_S = 60.0  # in which an experiment's folder is set up
ENDS_S = 30.0  # in which an experiment without a worker saves itself and ends


def reconcile() -> None:
    """No task of DVC's queue is Running that no worker has: it waits in the queue again, from its last checkpoint; what
    is left of its folder is gone. A second time it changes nothing.

    DVC has no command for this, so it is done as its own code does it: a message, a result and a folder each.
    """
    from dvc.repo import Repo

    with Repo(".") as repo:
        queue = repo.experiments.celery_queue
        taken = queue._get_running_task_ids()  # asks the workers, those that live
        lost = [
            (message, entry)
            for message, entry in queue._iter_processed()
            if message.headers["id"] not in taken and not _is_done(message)
        ]
        folders = []
        for message, entry in lost:
            _end(queue, entry)
            folders += _place(queue, entry)
            del queue.proc[entry.stash_rev]
            _put_back(queue, entry)  # first: a kill between the two must not lose it
            _forget(queue, message)
            print(f"{entry.name or entry.stash_rev[:7]}: had no worker, and waits in the queue again")
        folders = list(dict.fromkeys(folders + _leftovers(queue)))
        for folder in folders:
            shutil.rmtree(folder)
    print(f"put back: {len(lost)} experiments; removed: {len(folders)} folders that nobody uses")
    if lost:
        print("`dvc queue start` runs them")


def _is_done(message: Any) -> bool:
    from celery.result import AsyncResult

    return AsyncResult(message.headers["id"]).ready()


def _end(queue: Any, entry: Any) -> None:
    """The experiment's own processes, which may have outlived their worker, are gone."""
    info = queue.proc.get(entry.stash_rev)
    if info is None or info.returncode is not None or not psutil.pid_exists(info.pid):
        return
    process = psutil.Process(info.pid)
    if "exec-run" not in process.cmdline():  # another one has the number by now
        return
    family = [process, *process.children(recursive=True)]
    os.kill(info.pid, signal.SIGKILL)  # DVC: its stage ends by itself then, saved
    _, left = psutil.wait_procs(family, timeout=ENDS_S)
    for each in left:
        each.kill()


def _place(queue: Any, entry: Any) -> list[Path]:
    """Its folder, if it had got one."""
    try:
        folder = Path(queue._load_info(entry.stash_rev).root_dir)
    except (OSError, ValueError):
        return []
    return [folder] if folder.is_dir() else []


def _forget(queue: Any, message: Any) -> None:
    """The queue knows nothing of that attempt."""
    from celery.result import AsyncResult

    with suppress(FileNotFoundError):  # it has none
        AsyncResult(message.headers["id"]).forget()
    queue.celery.purge(message.delivery_tag)


def _put_back(queue: Any, entry: Any) -> None:
    """It waits as if it had just been queued: in git's stash of such, by which it has its baseline and its name, and in
    the queue.
    """
    from dvc.repo.experiments.queue.tasks import run_exp

    about = {"baseline_rev": entry.baseline_rev, "name": entry.name, "branch": entry.branch}
    message = queue.stash.format_message(entry.head_rev or entry.baseline_rev, **about)
    queue.scm.set_ref(queue.stash.ref, entry.stash_rev, message=f"commit: {message}")
    task: Any = run_exp  # of celery, which types do not know
    queue.celery.signature(task.s(entry.asdict())).delay()


def _leftovers(queue: Any) -> list[Path]:
    """The folders of experiments in which no process is, and that nobody sets up just now."""
    used = [place for process in psutil.process_iter() if (place := _folder(process))]
    return [
        folder
        for folder in Path(queue.wdir).parent.glob("tmp*")
        if time.time() - folder.stat().st_mtime > SETUP_S
        and not any(place.is_relative_to(folder.resolve()) for place in used)
    ]


def _folder(process: psutil.Process) -> Path | None:
    try:
        return Path(process.cwd())
    except (psutil.Error, OSError):
        return None
