"""`retrace reconcile`: repair DVC's queue after its workers or the machine went down."""

import json
import os
import shutil
import signal
from argparse import ArgumentParser, Namespace
from contextlib import suppress
from pathlib import Path
from typing import Any

from retrace import usage

GROUP = "mend"
SUMMARY = "put experiments back into DVC's queue whose worker is gone"
EXAMPLES = (
    "retrace reconcile && dvc queue start   after a crash, resume the queue",
    "retrace reconcile --json               what was put back and removed",
)
ENDS_S = 30.0  # for an experiment without a worker to save itself and end


def add_arguments(parser: ArgumentParser) -> None:
    usage.add_json(parser)


def run(args: Namespace) -> None:
    reconcile(as_json=args.json)


def reconcile(*, as_json: bool = False) -> None:
    """Put each Running task that no worker has back into DVC's queue, and remove its folder.

    It resumes from its last checkpoint. A second call changes nothing. DVC has no command for this,
    so it is done as DVC's own code does it: a message, a result and a folder each.
    """
    from dvc.repo import Repo

    from retrace import workers

    with Repo(".") as repo:
        queue = repo.experiments.celery_queue
        lost = workers.lost(queue)
        folders = []
        for message, entry in lost:
            _end(queue, entry)
            folders += _folder(queue, entry)
            del queue.proc[entry.stash_rev]
            _put_back(queue, entry)  # before _forget: a kill in between must not lose it
            _forget(queue, message)
            if not as_json:
                print(f"{_name(entry)}: had no worker; it is in the queue again")
        folders = list(dict.fromkeys(folders + workers.leftovers(Path(queue.wdir).parent)))
        for folder in folders:
            shutil.rmtree(folder)
    if as_json:
        names = [_name(task.entry) for task in lost]
        print(json.dumps({"put_back": names, "removed": list(map(str, folders))}, indent=2))
        return
    print(f"put back: {_count(lost, 'experiment')}; removed: {_count(folders, 'folder')} not in use")
    if lost:
        print("`dvc queue start` runs them")


def _count(items: list[Any], noun: str) -> str:
    return f"{len(items)} {noun}{'s' * (len(items) != 1)}"


def _name(entry: Any) -> str:
    return entry.name or entry.stash_rev[:7]


def _end(queue: Any, entry: Any) -> None:
    """End the experiment's own processes, which may have outlived their worker."""
    import psutil

    info = queue.proc.get(entry.stash_rev)
    if info is None or info.returncode is not None or not psutil.pid_exists(info.pid):
        return
    process = psutil.Process(info.pid)
    if "exec-run" not in process.cmdline():  # the PID was reused
        return
    family = [process, *process.children(recursive=True)]
    os.kill(info.pid, signal.SIGKILL)  # DVC: its stage then saves itself and ends
    _, left = psutil.wait_procs(family, timeout=ENDS_S)
    for each in left:
        each.kill()


def _folder(queue: Any, entry: Any) -> list[Path]:
    """Return the experiment's folder, if it has one."""
    try:
        folder = Path(queue._load_info(entry.stash_rev).root_dir)
    except (OSError, ValueError):
        return []
    return [folder] if folder.is_dir() else []


def _forget(queue: Any, message: Any) -> None:
    """Remove the attempt from the queue."""
    from celery.result import AsyncResult

    with suppress(FileNotFoundError):  # it has none
        AsyncResult(message.headers["id"]).forget()
    queue.celery.purge(message.delivery_tag)


def _put_back(queue: Any, entry: Any) -> None:
    """Queue the experiment as DVC does: in git's stash, with its baseline and name, and in Celery."""
    from dvc.repo.experiments.queue.tasks import run_exp

    about = {"baseline_rev": entry.baseline_rev, "name": entry.name, "branch": entry.branch}
    message = queue.stash.format_message(entry.head_rev or entry.baseline_rev, **about)
    queue.scm.set_ref(queue.stash.ref, entry.stash_rev, message=f"commit: {message}")
    task: Any = run_exp  # of celery, which types do not know
    queue.celery.signature(task.s(entry.asdict())).delay()
