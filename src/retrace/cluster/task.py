"""An experiment as a task: plain JSON that any machine can run and run again.

    python -m retrace.cluster.task FILE NUMBER

runs one task of a JSON list; `-` stands for stdin. It clones the repository, applies the
uncommitted changes, runs `dvc exp run --pull`, sends the results to DVC's remote, and then pushes
the experiment to the git remote. The push comes last, so an experiment in the git remote is
complete; a task that is there already does nothing. Exit codes: 0 done, 2 an error that you can
fix, 143 terminated, else DVC's.
"""

import base64
import hashlib
import json
import shlex
import signal
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import chdir
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NamedTuple, Self

from retrace import errors
from retrace.cluster import scratch
from retrace.errors import RetraceError
from retrace.pipeline import git
from retrace.pipeline.origin import Origin
from retrace.system import processes
from retrace.system.redaction import redacted
from retrace.tracking import dvc_process

REMOTE = "origin"  # name of the git remote in a task's clone
MARK = "retrace-task: "  # in the message of an experiment's commit


@dataclass(frozen=True)
class Task:
    """An experiment: code, values, and the addresses that a machine needs to run it.

    It contains the credentials of DVC's remotes and of MLflow, so its file must be private.
    """

    name: str  # of the experiment
    address: str  # of the git remote
    commit: str
    patch: str  # the uncommitted changes, in Base64
    repository: str  # name of its folder, by default that of the MLflow experiment
    inside: str  # path of DVC's root in the repository
    overrides: tuple[str, ...]  # as after -S
    targets: tuple[str, ...]
    author: Mapping[str, str]  # git's user.name and user.email
    remotes: Mapping[str, Any]  # DVC's settings: core.remote, and each remote's
    variables: dict[str, str]  # of MLflow, and RETRACE_CHECKPOINTS
    cpus: int = 1  # of each machine
    gpus: int = 0
    nodes: int = 1  # machines
    stage: str = ""  # that they compute together

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """Return a task from the JSON of its `asdict`."""
        lists: dict[str, Any] = {name: tuple(values[name]) for name in ("overrides", "targets")}
        return cls(**(dict(values) | lists))

    @property
    def origin(self) -> Origin:
        """The code and parameters."""
        return Origin(self.commit, base64.b64decode(self.patch))

    @property
    def digest(self) -> str:
        """What tells this experiment from others of the same name: its code and its values."""
        parts = (self.commit, self.patch, self.inside, self.overrides, self.targets)
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    @property
    def ref(self) -> str:
        """The experiment's ref, as DVC names it."""
        return f"refs/exps/{self.commit[:2]}/{self.commit[2:]}/{self.name}"


class Result(NamedTuple):
    """How a task ended."""

    exit_code: int
    seconds: float
    commit: str | None = None  # of the experiment
    is_new: bool = True  # False if the git remote had it


def run(task: Task) -> Result:
    """Run a task to its end, unless its experiment is in the git remote.

    Raises RetraceError if the repository cannot be cloned, or if the git remote has another
    experiment of this name.
    """
    began = time.monotonic()
    with scratch.repository(task) as root:
        commit = pushed(task, root)
        is_new = commit is None
        code = _experiment(task, root) if is_new else 0
        commit = pushed(task, root) if is_new and not code else commit
    return Result(code, time.monotonic() - began, commit, is_new)


def pushed(task: Task, folder: Path) -> str | None:
    """Return the experiment's commit in the git remote; None if it is not there.

    `folder` is in a clone, which gets it too. Raises RetraceError if the remote does not answer,
    or if it has another experiment of this name.
    """
    listed = git.run("ls-remote", task.address, task.ref, folder=folder).decode().split()
    if not listed:
        return None
    git.run("fetch", "--quiet", task.address, f"+{task.ref}:{task.ref}", folder=folder)
    message = git.run("log", "-1", "--format=%B", listed[0], folder=folder).decode()
    if f"{MARK}{task.digest}" not in message.splitlines():
        has = f"{redacted(task.address)} has another experiment {task.name} of this commit"
        remove = shlex.join(["dvc", "exp", "remove", "--git-remote", REMOTE, task.name])
        raise RetraceError(f"{has}; choose another --name, or type `{remove}`")
    return listed[0]


def command(task: Task) -> list[str]:
    """Return the words of `dvc exp run` for a task."""
    flags = [word for override in task.overrides for word in ("--set-param", override)]
    named = ("--name", task.name, "--message", f"{task.name}\n\n{MARK}{task.digest}")
    return dvc_process.command("exp", "run", "--pull", *named, *flags, *task.targets)


def push(task: Task, root: Path, out: IO[bytes] | None = None) -> int:
    """Share the results of a task that has run, then push its experiment; return the exit code.

    `out` gets what DVC prints. Raises RetraceError if the results cannot be shared.
    """
    from retrace.pipeline import sharing  # takes time to import

    with chdir(root):
        shared = sharing.share(only_new=True)
    if shared.damaged:
        file, md5 = next(iter(shared.damaged.items()))
        raise RetraceError(f"{file.path}: damaged: its MD5 is {md5}; remove it")
    env = dvc_process.environment() | task.variables
    return dvc_process.run(dvc_process.command("exp", "push", REMOTE, task.name), root, env, out)


def _experiment(task: Task, root: Path) -> int:
    """Run the experiment, share its results, push it; return the first exit code that is not 0."""
    code = dvc_process.run(command(task), root, dvc_process.environment() | task.variables)
    return code or push(task, root)


def main() -> None:
    """Run the task that the command line names, and exit with its code."""
    enter(_print_result)


def enter(work: Callable[[Task], None]) -> None:
    """Do something with the task that the command line names; end with the parent process."""
    processes.die_with_parent(signal.SIGTERM)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())  # Ray's workers block Ctrl-C, also for stages
    errors.run(lambda: work(_named()))


def _named() -> Task:
    """Return the task that the command line names."""
    file, number = sys.argv[1:]
    text = sys.stdin.read() if file == "-" else Path(file).read_text(encoding="utf-8")
    return Task.from_json(json.loads(text)[int(number)])


def _print_result(task: Task) -> None:
    result = run(task)
    state = "is done" if result.is_new else "was done before"
    if result.commit:
        print(f"{task.name} {state}: commit {result.commit[:10]}, {result.seconds:.0f} s")
    leave(result.exit_code)


def leave(code: int) -> None:
    """Exit with a process's code, unless that is 0; if a signal ended it, as a shell would."""
    sys.stdout.flush()
    if code:
        sys.exit(code if code > 0 else 128 - code)


if __name__ == "__main__":
    main()
