"""The stage that several machines compute together, on another machine than a task's first one.

    python -m retrace.cluster.node_stage FILE NUMBER

runs it for one task of a JSON list; `-` stands for stdin. The experiment itself runs on machine 0,
which tracks it, writes its outputs and pushes them. Here, only the stage's own commands run, on a
copy of the data that they read; nothing is tracked, and nothing is kept. Three variables say who
meets where: RETRACE_RENDEZVOUS, RETRACE_NODES and RETRACE_NODE.
"""

import os
import socket
import time
from contextlib import chdir, suppress
from pathlib import Path

from retrace.cluster import scratch, task
from retrace.cluster.task import Task
from retrace.pipeline import dvc_internals, dvc_overrides
from retrace.pipeline.definition import Stage, prefixes
from retrace.pipeline.workspace import Workspace
from retrace.tracking import dvc_process
from retrace.tracking.stage import NODE, declared

RENDEZVOUS = "RETRACE_RENDEZVOUS"  # HOST:PORT of machine 0
COUNT = "RETRACE_NODES"
POLL_S = 0.5


def variables(address: str, count: int, rank: int) -> dict[str, str]:
    """Return the variables of a stage that `count` machines compute, on machine `rank`."""
    return {RENDEZVOUS: address, COUNT: str(count), NODE: str(rank)}


def run(task: Task) -> int:
    """Run the stage's commands once machine 0 runs them too; return the first failing exit code.

    Raises RetraceError if the repository cannot be cloned, or if it has no such stage.
    """
    env = dvc_process.environment(tracks=False) | task.variables
    with scratch.repository(task) as root, chdir(root):
        for file, changes in dvc_overrides.by_file(task.overrides).items():
            dvc_overrides.set_params(Path(file), changes)
        workspace = Workspace(root)
        stage = declared(workspace, task.stage)
        code = _fetch(workspace, stage, env)
        if code:
            return code
        _wait_for(os.environ[RENDEZVOUS])
        env |= {"DVC_ROOT": str(root), "DVC_STAGE": stage.name}
        for line in stage.commands:
            words = dvc_internals.shell(line)
            code = code or dvc_process.run(words, root / stage.folder, env)
        return code


def _fetch(workspace: Workspace, stage: Stage, env: dict[str, str]) -> int:
    """Put what a stage reads on this machine's disk; return the first failing exit code."""
    alone = {name: value for name, value in env.items() if name not in (RENDEZVOUS, COUNT)}
    pipeline = workspace.pipeline
    sources = [
        source.file
        for source in pipeline.sources
        if any(source.path in prefixes(dep) or dep in prefixes(source.path) for dep in stage.deps)
    ]
    commands = {"pull": sources, "repro": pipeline.upstream(stage.name)}
    code = 0
    for word, targets in commands.items():
        if targets and not code:
            flags = ("--pull",) if word == "repro" else ()
            words = dvc_process.command(word, *flags, *targets)
            code = dvc_process.run(words, workspace.root, alone)
    return code


def _wait_for(address: str) -> None:
    """Wait until machine 0 listens: it may run other stages before, or need not run this one."""
    host, _, port = address.rpartition(":")
    while True:
        with suppress(OSError), socket.create_connection((host, int(port)), timeout=POLL_S):
            return
        time.sleep(POLL_S)


def main() -> None:
    """Run the stage for the task that the command line names, and exit with its code."""
    task.enter(lambda given: task.leave(run(given)))


if __name__ == "__main__":
    main()
