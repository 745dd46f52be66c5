"""`retrace reconcile`: DVC's queue after its workers or the machine went down, usable again."""

import json
import os
import shutil
import signal
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from retrace import workers

ENDS_S = 30.0  # in which an experiment without a worker saves itself and ends


def reconcile(*, as_json: bool = False) -> None:
    """No task of DVC's queue is Running that no worker has: it waits in the queue again, from its last checkpoint; what
    is left of its folder is gone. A second time it changes nothing.

    DVC has no command for this, so it is done as its own code does it: a message, a result and a folder each.
    """
    from dvc.repo import Repo

    with Repo(".") as repo:
        queue = repo.experiments.celery_queue
        lost = workers.lost(queue)
        folders = []
        for message, entry in lost:
            _end(queue, entry)
            folders += _place(queue, entry)
            del queue.proc[entry.stash_rev]
            _put_back(queue, entry)  # first: a kill between the two must not lose it
            _forget(queue, message)
            if not as_json:
                print(f"{_name(entry)}: had no worker, and waits in the queue again")
        folders = list(dict.fromkeys(folders + workers.leftovers(Path(queue.wdir).parent)))
        for folder in folders:
            shutil.rmtree(folder)
    if as_json:
        names = [_name(task.entry) for task in lost]
        print(json.dumps({"put_back": names, "removed": list(map(str, folders))}, indent=2))
        return
    print(f"put back: {_count(lost, 'experiment')}; removed: {_count(folders, 'folder')} that nobody uses")
    if lost:
        print("`dvc queue start` runs them")


def _count(found: list[Any], what: str) -> str:
    return f"{len(found)} {what}{'s' * (len(found) != 1)}"


def _name(entry: Any) -> str:
    return entry.name or entry.stash_rev[:7]


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
