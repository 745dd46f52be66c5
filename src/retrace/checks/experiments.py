"""DVC's experiments and its queue: what processes that are gone have left behind."""

import json
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

from retrace import dvc_internals, git, workers
from retrace.checks.findings import Check, Finding, ok, problem, some, warning

RWLOCK = dvc_internals.DVC / "tmp" / "rwlock"
EXEC = "refs/exps/exec/"
DROP = f"git for-each-ref --format='delete %(refname)' {EXEC} | git update-ref --stdin"


def locks() -> Iterator[Finding]:
    """DVC's list of who reads and writes which file names no process that is gone, or another by now."""
    if not RWLOCK.exists():
        return
    try:
        holders = _holders(json.loads(RWLOCK.read_text(encoding="utf-8")))
    except (ValueError, LookupError, TypeError, AttributeError):
        yield problem(f"{RWLOCK} is no list of locks any more, and DVC refuses to run", f"rm {RWLOCK}")
        return
    gone = {pid: command for pid, command in holders.items() if not _is_dvc(pid)}
    if gone:
        said = some([f"process {pid} ({command})" for pid, command in gone.items()])
        # DVC passes over a number that no process has, and waits in vain for another process that has it by now.
        tell = problem if any(map(psutil.pid_exists, gone)) else warning
        yield tell(f"{RWLOCK} holds files for {said}, which is gone", f"rm {RWLOCK}")
    elif holders:
        yield ok(f"DVC is at work: {some([f'process {pid} ({command})' for pid, command in holders.items()])}")


def _holders(lock: dict[str, Any]) -> dict[int, str]:
    entries = [
        *lock.get("write", {}).values(),
        *(each for several in lock.get("read", {}).values() for each in several),
    ]
    return {int(entry["pid"]): str(entry["cmd"]) for entry in entries}


def _is_dvc(pid: int) -> bool:
    """Whether that process lives, and may be the one that was meant: numbers are given again."""
    try:
        return any("dvc" in word for word in psutil.Process(pid).cmdline())
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:
        return True


def refs() -> Iterator[Finding]:
    """No interrupted `dvc exp run` has left what it worked with in git's refs."""
    names = (git.output("for-each-ref", "--format=%(refname)", EXEC) or "").split()
    left = [name.removeprefix(EXEC) for name in names if not name.endswith("/EXEC_HEAD")]  # which each run leaves
    at_work = any("dvc" in command and "exp" in command for command in _commands_here())
    if left and not at_work:
        yield warning(f"{EXEC} has {some(left)} of a `dvc exp run` that was interrupted", DROP)


def _commands_here() -> Iterator[list[str]]:
    """The command lines, word by word and without folders, of the processes in this repository."""
    for process in psutil.process_iter():
        try:
            if Path(process.cwd()) == Path.cwd():
                yield [Path(word).name for word in process.cmdline()]
        except (psutil.Error, OSError):
            continue


def baselines() -> Iterator[Finding]:
    """Each experiment starts from a commit that a branch or a tag leads to; `dvc exp show` hides the others."""
    lost = []
    kept: dict[str, bool] = {}
    experiments = git.experiments()
    for each in experiments:
        if each.baseline not in kept:
            leads = git.output(
                "for-each-ref", "--count=1", f"--contains={each.baseline}", "refs/heads", "refs/tags", "refs/remotes"
            )
            kept[each.baseline] = (
                bool(leads) or git.output("merge-base", "--is-ancestor", each.baseline, "HEAD") is not None
            )
        if not kept[each.baseline]:
            lost.append(each.name)
    if lost:
        said = f"{len(lost)} experiments start from commits that no branch leads to any more: {some(lost)}"
        yield warning(f"{said}; `dvc exp branch NAME BRANCH` keeps one", f"dvc exp remove {shlex.join(lost)}")
    elif experiments:
        yield ok(f"{len(experiments)} experiments")


def queue() -> Iterator[Finding]:
    """No task is Running that no worker has."""
    if not any((dvc_internals.EXPERIMENTS / "celery" / "broker" / "processed").glob("*")):
        return  # the queue was never used
    with dvc_internals.opened_queue() as celery_queue:
        lost = [task.entry.name or task.entry.stash_rev[:7] for task in workers.lost(celery_queue)]
    if lost:
        yield problem(f"{some(lost)}: Running in the queue, but no worker has it", "retrace reconcile")


def folders() -> Iterator[Finding]:
    """No folder of an experiment is left that nobody uses."""
    if left := workers.leftovers(dvc_internals.EXPERIMENTS):
        size = sum(file.lstat().st_size for folder in left for file in folder.rglob("*") if not file.is_dir())
        said = (
            f"{len(left)} folders of experiments in {dvc_internals.EXPERIMENTS}, {size / 1e6:,.0f} MB, that nobody uses"
        )
        yield warning(said, "retrace reconcile")


CHECKS: dict[str, Check] = {
    "DVC's locks": locks,
    "DVC's refs": refs,
    "experiments": baselines,
    "queue": queue,
    "folders": folders,
}
