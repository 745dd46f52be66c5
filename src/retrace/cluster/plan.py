"""Make tasks from the repository at hand and the words of a command; refuse what cannot work."""

import base64
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from retrace.cluster.task import Task
from retrace.errors import ParamsError, RetraceError
from retrace.pipeline import dvc_internals, dvc_overrides, git, loading
from retrace.pipeline.origin import current_origin
from retrace.store import tracking_uri
from retrace.system import files, mlflow_environment
from retrace.system.redaction import redacted
from retrace.system.text import command

CHECKPOINTS = "RETRACE_CHECKPOINTS"  # where a retried task resumes from
LOOPBACK = re.compile(r"^[\w+]+://([^/@]*@)?(localhost|127\.[\d.]+|\[::1\])([:/]|$)")
URL = re.compile(r"^\w[\w+.-]*://|^[^/]+:")  # the latter is ssh's host:path


def make_tasks(
    overrides: Sequence[str],
    targets: Sequence[str] = (),
    name: str | None = None,
    git_remote: str = "origin",
    cpus: int = 1,
    gpus: int = 0,
) -> list[Task]:
    """Return a task for each experiment that `dvc exp run --queue` would put into its queue.

    Without a name, an experiment is named after a hash of its code and values, so the same command
    makes the same tasks. Raises RetraceError if there is no git remote, DVC remote or commit, if
    the git remote lacks the commit, or if a value cannot be set.
    """
    root = files.root()
    origin = current_origin()
    address = _git_address(git_remote)
    _check_pushed(origin.commit, git_remote, address)
    inside = git.inside(root)
    base = Task(
        name="",
        address=address,
        commit=origin.commit,
        patch=base64.b64encode(origin.patch).decode(),
        repository=(root, *root.parents)[len(Path(inside).parts)].name,
        inside=inside,
        overrides=(),
        targets=tuple(targets),
        author=_author(),
        remotes=dvc_internals.remotes(),
        variables=_variables(),
        cpus=cpus,
        gpus=gpus,
    )
    expanded = dvc_overrides.expand(overrides)
    tasks = [replace(base, overrides=each) for each in expanded]
    for task in tasks:
        _check_values(task.overrides)
    return [replace(task, name=_name(name, i, len(tasks), task)) for i, task in enumerate(tasks)]


def together(tasks: Iterable[Task], nodes: int, stage: str | None) -> list[Task]:
    """Return the tasks, each for `nodes` machines that compute `stage` together.

    Raises RetraceError if one of the two is missing, if there is no such stage, or if Hydra
    composes the params.
    """
    stages = loading.load(files.root()).stages
    if nodes > 1 and stage not in stages:
        given = f"--stage is {stage!r}" if stage else f"--nodes is {nodes} without --stage"
        wanted = "should be the stage that they compute together"
        raise RetraceError(f"{given}; {wanted}, one of {', '.join(stages)}")
    if nodes > 1 and dvc_internals.config()["hydra"].get("enabled"):
        reason = "Hydra composes the params, which only the first machine of several can do"
        raise RetraceError(f"--nodes is {nodes}; {reason}: should be 1")
    if nodes == 1 and stage:
        raise RetraceError(
            f"--stage is {stage!r} without --nodes; should be with --nodes 2 or more"
        )
    return [replace(task, nodes=nodes, stage=stage or "") for task in tasks]


def check_reach(task: Task) -> list[str]:
    """Return a note for each folder that all machines of the task must share.

    Raises RetraceError if an address means something else on another machine.
    """
    remote = task.remotes["remote"][task.remotes["core"]["remote"]]["url"]
    store = task.variables["MLFLOW_TRACKING_URI"]
    if tracking_uri.sqlite_file(store):
        what = "the MLflow store is a file, which only one machine can write to"
        raise RetraceError(f"{what}: {store}; serve it, and set MLFLOW_TRACKING_URI to the server")
    addresses = {"the git remote": task.address, "DVC's remote": remote, "the MLflow store": store}
    if task.variables.get(CHECKPOINTS):
        addresses[CHECKPOINTS] = task.variables[CHECKPOINTS]
    notes: list[str] = []
    for what, address in addresses.items():
        if LOOPBACK.match(address):
            reason = "which other machines cannot reach; use this machine's name in the network"
            raise RetraceError(f"{what} is {redacted(address)}, {reason}")
        if not URL.match(address):
            notes.append(f"{what} is the folder {address}: all machines must see it there")
    return notes


def fetch(tasks: Iterable[Task]) -> None:
    """Copy the experiments of tasks from the git remote, unless there are some of their names.

    Their files stay in DVC's remote.
    """
    known = {(ref.baseline, ref.name) for ref in git.experiments()}
    for task in tasks:
        if (task.commit, task.name) not in known:
            git.run(
                "fetch", "--quiet", "--no-write-fetch-head", task.address, f"{task.ref}:{task.ref}"
            )


def _git_address(remote: str) -> str:
    """Return the address of a git remote; a folder's is absolute."""
    printed = git.output("remote", "get-url", remote)
    if printed is None:
        known = ", ".join((git.output("remote") or "").split()) or "none"
        add = command("git", "remote", "add", remote, "ADDRESS")
        problem = f"no git remote {remote!r} (there is: {known}), from which machines clone"
        raise RetraceError(f"{problem}; name another with --git-remote, or type `{add}`")
    address = printed.removeprefix("file://")
    folder = files.root() / address
    return str(folder.resolve()) if folder.is_dir() else printed


def _check_pushed(commit: str, remote: str, address: str) -> None:
    """Raise RetraceError unless a branch or tag of the git remote has a commit."""
    listed = git.run("ls-remote", "--heads", "--tags", address).decode().split()
    for tip in dict.fromkeys(listed[::2]):
        if git.has_commit(tip) and git.output("merge-base", "--is-ancestor", commit, tip) == "":
            return
    push = command("git", "push", remote, "HEAD")
    raise RetraceError(f"commit {commit[:10]} is not at {redacted(address)}; type `{push}`")


def _author() -> dict[str, str]:
    values = {key: git.output("config", key) for key in git.IDENTITY}
    return {key: value for key, value in values.items() if value}


def _variables() -> dict[str, str]:
    """Return MLflow's variables, and where checkpoints are kept: here, unless the user says."""
    own = {name: os.environ[name] for name in mlflow_environment.HEEDED if os.environ.get(name)}
    store = tracking_uri.address()
    if "://" not in store and not store.startswith("file:"):
        store = str(files.root() / store)
    checkpoints = os.environ.get(CHECKPOINTS) or ".retrace/checkpoints"
    if "://" not in checkpoints:
        folder = files.root() / checkpoints
        folder.mkdir(parents=True, exist_ok=True)
        checkpoints = str(folder)
    variables = own | {"MLFLOW_TRACKING_URI": store, CHECKPOINTS: checkpoints}
    if tracking_uri.is_served(store):
        return variables
    from retrace.store import backend  # imports MLflow, which takes seconds

    return variables | {backend.ARTIFACTS: str(backend.artifacts())}


def _name(given: str | None, number: int, total: int, task: Task) -> str:
    """Return the name of an experiment: of several, DVC adds a number to the given one."""
    if given is None:
        return f"exp-{task.digest[:8]}"
    name = f"{given}-{number + 1}" if total > 1 else given
    if "/" in name or git.output("check-ref-format", f"refs/exps/{name}") is None:
        reason = "should be a name that git allows, without slashes"
        raise ParamsError(f"--name is {given!r}; {reason}")
    return name


def _check_values(overrides: Iterable[str]) -> None:
    """Raise ParamsError if DVC cannot set these values, as it would on each machine."""
    if dvc_internals.config()["hydra"].get("enabled"):
        return  # the params file is composed first
    with tempfile.TemporaryDirectory() as folder:
        for file, changes in dvc_overrides.by_file(overrides).items():
            copy = Path(folder) / Path(file).name
            if Path(file).exists():
                shutil.copyfile(file, copy)
                dvc_overrides.set_params(copy, changes)
            else:
                raise ParamsError(f"{file}: no such file, in which -S should set {changes[0]}")
