"""`retrace reconcile`: DVC's queue after its workers or the machine went down, usable again."""

import json
import os
import shutil
import signal
from typing import Any

import psutil

from retrace import dvc_internals, workers

ENDS_S = 30.0  # in which an experiment without a worker saves itself and ends


def reconcile(*, as_json: bool = False) -> None:
    """No task of DVC's queue is Running that no worker has: it waits in the queue again, from its last checkpoint; what
    is left of its folder is gone. A second time it changes nothing.

    DVC has no command for this, so it is done as its own code does it: a message, a result and a folder each.
    """
    with dvc_internals.opened_queue() as queue:
        lost = workers.lost(queue)
        folders = []
        for message, entry in lost:
            _end(queue, entry)
            folder = dvc_internals.task_folder(queue, entry)
            folders += [folder] if folder else []
            dvc_internals.forget_process(queue, entry)
            dvc_internals.queue_again(queue, entry)  # first: a kill between the two must not lose it
            dvc_internals.forget_attempt(queue, message)
            if not as_json:
                print(f"{_name(entry)}: had no worker, and waits in the queue again")
        folders = list(dict.fromkeys(folders + workers.leftovers(dvc_internals.task_root(queue))))
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
    process = dvc_internals.task_process(queue, entry)
    if process is None:
        return
    family = [process, *process.children(recursive=True)]
    os.kill(process.pid, signal.SIGKILL)  # DVC: its stage ends by itself then, saved
    _, left = psutil.wait_procs(family, timeout=ENDS_S)
    for each in left:
        each.kill()
