"""DVC's experiments and queue: what dead processes left behind."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

from retrace.doctor.findings import Check, Finding, ok, problem, some, warning
from retrace.pipeline import dvc_internals, dvc_queue, git
from retrace.system.text import command, count

RWLOCK = dvc_internals.DVC / "tmp" / "rwlock"
EXEC = "refs/exps/exec/"
KEEPING = ("refs/heads", "refs/tags", "refs/remotes")
DROP = f"git for-each-ref --format='delete %(refname)' {EXEC} | git update-ref --stdin"


def locks() -> Iterator[Finding]:
    """Check that DVC's list of locks names no dead process."""
    if not RWLOCK.exists():
        return
    try:
        holders = _holders(json.loads(RWLOCK.read_text(encoding="utf-8")))
    except (ValueError, LookupError, TypeError, AttributeError):
        yield problem(f"{RWLOCK} is damaged, and DVC refuses to run", f"rm {RWLOCK}")
        return
    gone = {pid: line for pid, line in holders.items() if not _is_dvc(pid)}
    if gone:
        # DVC ignores a PID without a process, and waits in vain for a process that reuses it.
        level = problem if any(map(psutil.pid_exists, gone)) else warning
        dead = count(len(gone), "dead process", "dead processes")
        yield level(f"{RWLOCK} has locks of {dead}: {_processes(gone)}", f"rm {RWLOCK}")
    elif holders:
        yield ok(f"DVC is running: {_processes(holders)}")


def _processes(commands: dict[int, str]) -> str:
    return some([f"process {pid} ({line})" for pid, line in commands.items()])


def _holders(lock: dict[str, Any]) -> dict[int, str]:
    entries = [
        *lock.get("write", {}).values(),
        *(each for several in lock.get("read", {}).values() for each in several),
    ]
    return {int(entry["pid"]): str(entry["cmd"]) for entry in entries}


def _is_dvc(pid: int) -> bool:
    """Return whether the process is alive and may be DVC: PIDs are reused."""
    try:
        return any("dvc" in word for word in psutil.Process(pid).cmdline())
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:
        return True


def refs() -> Iterator[Finding]:
    """Check that no interrupted `dvc exp run` has left its refs in git."""
    names = (git.output("for-each-ref", "--format=%(refname)", EXEC) or "").split()
    # Every run leaves EXEC_HEAD.
    left = [name.removeprefix(EXEC) for name in names if not name.endswith("/EXEC_HEAD")]
    is_running = any("dvc" in words and "exp" in words for words in _commands_here())
    if left and not is_running:
        yield warning(f"{EXEC} has {some(left)} of an interrupted `dvc exp run`", DROP)


def _commands_here() -> Iterator[list[str]]:
    """Yield the command lines of the processes in this repository, each word without its folder."""
    for process in psutil.process_iter():
        try:
            if Path(process.cwd()) == Path.cwd():
                yield [Path(word).name for word in process.cmdline()]
        except (psutil.Error, OSError):
            continue


def baselines() -> Iterator[Finding]:
    """Check that each experiment's baseline is on a branch or tag; `dvc exp show` hides others."""
    lost = []
    kept: dict[str, bool] = {}
    experiments = git.experiments()
    for experiment in experiments:
        baseline = experiment.baseline
        if baseline not in kept:
            branches = git.output("for-each-ref", "--count=1", f"--contains={baseline}", *KEEPING)
            is_ancestor = git.output("merge-base", "--is-ancestor", baseline, "HEAD") is not None
            kept[baseline] = bool(branches) or is_ancestor
        if not kept[baseline]:
            lost.append(experiment.name)
    if lost:
        based = "is based on a commit" if len(lost) == 1 else "are based on commits"
        state = f"{count(len(lost), 'experiment')} {based} that no branch contains: {some(lost)}"
        keep = "`dvc exp branch NAME BRANCH` keeps one"
        yield warning(f"{state}; {keep}", command("dvc", "exp", "remove", *lost))
    elif experiments:
        yield ok(count(len(experiments), "experiment"))


def queue() -> Iterator[Finding]:
    """Check that each Running task has a worker."""
    if not any((dvc_internals.EXPERIMENTS / "celery" / "broker" / "processed").glob("*")):
        return  # the queue was never used
    with dvc_internals.opened_queue() as celery_queue:
        entries = [task.entry for task in dvc_queue.lost(celery_queue)]
    lost = [entry.name or entry.stash_rev[:7] for entry in entries]
    if lost:
        state = f"marked Running in DVC's queue, but no worker runs it: {some(lost)}"
        yield problem(state, "retrace reconcile")


def folders() -> Iterator[Finding]:
    """Check that no unused folder of an experiment is left."""
    left = dvc_queue.leftovers(dvc_internals.EXPERIMENTS)
    if left:
        files = [file for folder in left for file in folder.rglob("*") if not file.is_dir()]
        size = f"{sum(file.lstat().st_size for file in files) / 1e6:,.0f} MB"
        unused = count(len(left), "unused folder")
        state = f"{unused} of experiments in {dvc_internals.EXPERIMENTS}, {size}"
        yield warning(state, "retrace reconcile")


CHECKS: dict[str, Check] = {
    "DVC's locks": locks,
    "DVC's refs": refs,
    "experiments": baselines,
    "queue": queue,
    "folders": folders,
}
