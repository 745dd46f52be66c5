"""Reproduce a run in a temporary repository, from its code, parameters and raw data.

It shares only git's objects, the raw data and what stages keep outside the repository, such as
downloads, with this repository: not DVC's cache, the MLflow store, or any environment variable of
theirs. This repository does not change, except that DVC's cache may gain raw data. All files and
processes are removed, however the reproduction ends.
"""

import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from types import FrameType
from typing import IO

import psutil

from retrace import checkpoint, event_log
from retrace.errors import TEMPORARY_REPAIR, RetraceError, is_full
from retrace.event_log import Event
from retrace.pipeline import dvc_cli, dvc_internals, git, git_process, hashing
from retrace.provenance import locations
from retrace.system import files
from retrace.system.redaction import redacted
from retrace.tracking import shell

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
MARK = "RETRACE_REBUILT_IN"  # in the environment of every process that is started here
CONFIG = """\
[core]
    analytics = false
    check_update = false
    autostage = true
[cache]
    dir = cache
"""


@contextmanager
def temporary_repository() -> Iterator[Path]:
    """Yield the root of a temporary repository that shares the git objects of this one.

    Like that of this one, it may be below git's top folder. The repository has no commits of its
    own, and is deleted afterwards.
    """
    with _interrupted_once():
        top = Path(tempfile.mkdtemp(prefix="retrace-verify-")).resolve()
        try:
            share_objects(top)
            yield top / git.inside(files.root())
        finally:
            _end(top)
            shutil.rmtree(top)


def share_objects(tree: Path) -> None:
    """Make `tree` a repository without commits that shares the git objects of this one."""
    try:
        git.init_sharing(tree, files.root())
    except RetraceError:
        refusal = git_process.refusal(files.root())
        reason = str(refusal or "is not a git repository")
        raise RetraceError(
            f"{files.root()}: {reason}, so there is no code to reproduce a run from"
        ) from None


def restore_data(tree: Path, path: str, md5: str, commit: str) -> None:
    """Copy the data with this hash to `tree`, unless its commit has it.

    It is taken from the work tree, from DVC's cache, or from DVC's remote, which fills the cache;
    imported data from where `commit` says. Raises RetraceError if none has it.
    """
    wanted = tree / path
    here = files.root() / path
    if wanted.exists() and hashing.md5(wanted) == md5:
        return
    sources = {".": here}
    if not here.exists() or hashing.md5(here) != md5:
        sources = locations.objects(md5)
    with tempfile.TemporaryDirectory() as folder:
        sources = sources or _pulled(md5) or _imported(path, md5, commit, Path(folder))
        if not sources:
            problem = f"has changed since the run, which read MD5 {md5}"
            remedy = "neither DVC's cache nor its remote has that data: restore it"
            raise RetraceError(f"{path} {problem}; {remedy}")
        if wanted.is_dir():
            shutil.rmtree(wanted)
        for inside, source in sources.items():
            _copy(source, wanted / inside)


def repro(
    tree: Path, stages: Iterable[str], out: IO[str] | None = None, *, is_wrapped: bool = False
) -> None:
    """Run `stages`, and the stages that they depend on, in `tree`.

    With `is_wrapped` their commands are tracked as by `retrace dvc`. Their output goes to stdout,
    or to `out`. Raises RetraceError if one of them fails.
    """
    (tree / ".dvc/config.local").write_text(CONFIG, encoding="utf-8")
    for lock in tree.rglob("dvc.lock"):  # of each dvc.yaml
        lock.unlink()
    sys.stdout.flush()
    command = dvc_cli.command("repro", "--force", "--no-run-cache", "--no-commit", *stages)
    own = {MARK: str(tree), "DVC_SITE_CACHE_DIR": str(tree / ".dvc/site")}
    environment = _environment() | (shell.variables() if is_wrapped else {}) | own
    # In a new session, so that Ctrl-C reaches only this process, which then ends all children.
    with subprocess.Popen(
        command,
        cwd=tree,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=out,
        start_new_session=True,
    ) as process:
        try:
            code = process.wait()
        finally:
            _end(tree)
    if code:
        problem = f"`dvc repro` failed with exit code {code} in the temporary repository"
        if is_full(tree):
            raise RetraceError(f"{problem}: the disk of {tree} is full; {TEMPORARY_REPAIR}")
        raise RetraceError(f"{problem} (see its output above), so there is nothing to compare")


def _pulled(md5: str) -> dict[str, Path]:
    """Fetch data from DVC's remote, and return where its files are; see locations.objects."""
    try:
        with dvc_internals.opened() as repo:
            dvc_internals.Remote(repo).pull(md5)
    except RetraceError:  # there is no remote
        return {}
    except Exception as error:  # noqa: BLE001 - a remote may raise anything
        print(f"warning: DVC's remote: {redacted(str(error))}", file=sys.stderr)
    return locations.objects(md5)


def _imported(path: str, md5: str, commit: str, folder: Path) -> dict[str, Path]:
    """Download what `dvc import` has imported, as a commit names it, and return where it is."""
    top = git.output("rev-parse", "--show-toplevel")
    inside = PurePosixPath(git.inside(files.root()), path)
    target = folder / inside.name
    dvc_cli.run("get", "--rev", commit, "--out", str(target), str(top), str(inside))
    return {".": target} if target.exists() and hashing.md5(target) == md5 else {}


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target)
    else:
        shutil.copyfile(source, target)


def event_logs(tree: Path) -> dict[str, list[Event]]:
    """Return the event logs of the stages that ran in `tree`, by stage."""
    logs = [event_log.read(path) for path in (tree / ".retrace/journal").rglob("*.jsonl")]
    return {events[0]["stage"]: events for events in logs if events}


def _environment() -> dict[str, str]:
    """Return the environment without variables that point to the user's stores or repository."""
    return dvc_cli.environment("DVC_", "MLFLOW_", "GIT_", checkpoint.VARIABLE)


def _end(tree: Path) -> None:
    """Kill every process that was started in `tree`, also in another session."""
    while left := [process for process in psutil.process_iter() if _is_of(process, tree)]:
        for process in left:
            process.kill()
        psutil.wait_procs(left, timeout=1)


@contextmanager
def _interrupted_once() -> Iterator[None]:
    """Handle the first signal as usual; ignore later ones, such as more Ctrl-C, in cleanup."""
    handlers = {number: old for number in SIGNALS if callable(old := signal.getsignal(number))}

    def first(number: int, frame: FrameType | None) -> None:
        for each in handlers:
            signal.signal(each, signal.SIG_IGN)
        handlers[signal.Signals(number)](number, frame)

    for number in handlers:
        signal.signal(number, first)
    try:
        yield
    finally:
        for number, old in handlers.items():
            signal.signal(number, old)


def _is_of(process: psutil.Process, tree: Path) -> bool:
    try:
        return Path(process.environ().get(MARK, "/")).is_relative_to(tree)
    except psutil.Error:
        return False
