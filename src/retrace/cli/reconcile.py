"""`retrace reconcile`: repair DVC's queue after its workers or the machine went down."""

import json
import os
import shutil
import signal
from argparse import ArgumentParser, Namespace
from typing import Any

from retrace.cli import arguments
from retrace.system.text import count

GROUP = "repair"
SUMMARY = "requeue DVC experiments whose worker no longer exists"
EXAMPLES = (
    "retrace reconcile && dvc queue start   after a crash, resume the queue",
    "retrace reconcile --json               what was requeued and removed",
)
ENDS_S = 30.0  # for an experiment without a worker to save a checkpoint and end


def add_arguments(parser: ArgumentParser) -> None:
    arguments.add_json(parser)


def run(args: Namespace) -> None:
    reconcile(as_json=args.json)


def reconcile(*, as_json: bool = False) -> None:
    """Requeue each Running task that no worker runs, and remove its folder.

    The task resumes from its last checkpoint. Running it again changes nothing. DVC has no command
    for this. It is done as in DVC's own code, where a task is a message, a result and a folder.
    """
    from retrace.pipeline import dvc_internals, dvc_queue

    with dvc_internals.opened_queue() as queue:
        lost = dvc_queue.lost(queue)
        folders = []
        for message, entry in lost:
            _end(queue, entry)
            folder = dvc_internals.task_folder(queue, entry)
            folders += [folder] if folder else []
            dvc_internals.forget_process(queue, entry)
            dvc_internals.queue_again(queue, entry)  # first: a kill in between must not lose it
            dvc_internals.forget_attempt(queue, message)
            if not as_json:
                print(f"{_name(entry)}: had no worker; it is in the queue again")
        folders = list(dict.fromkeys(folders + dvc_queue.leftovers(dvc_internals.task_root(queue))))
        for folder in folders:
            shutil.rmtree(folder)
    if as_json:
        names = [_name(task.entry) for task in lost]
        print(json.dumps({"put_back": names, "removed": list(map(str, folders))}, indent=2))
        return
    n_lost = count(len(lost), "experiment")
    n_folders = count(len(folders), "folder")
    print(f"put back: {n_lost}; removed: {n_folders} not in use")
    if lost:
        print("`dvc queue start` runs them")


def _name(entry: Any) -> str:
    return entry.name or entry.stash_rev[:7]


def _end(queue: Any, entry: Any) -> None:
    """End the experiment's own processes, which may have outlived their worker."""
    import psutil

    from retrace.pipeline import dvc_internals

    process = dvc_internals.task_process(queue, entry)
    if process is None:
        return
    family = [process, *process.children(recursive=True)]
    os.kill(process.pid, signal.SIGKILL)  # it is DVC; its stage then saves a checkpoint and ends
    _, left = psutil.wait_procs(family, timeout=ENDS_S)
    for each in left:
        each.kill()
