"""Use what DVC does not document: its configuration, its cache, its remotes and its queue.

dvc.api (3.67) reads files, metrics, parameters and experiments. It has no functions for the folders
of the cache, for the run cache and single files of a remote, or for tasks of the queue whose worker
no longer exists (treeverse/dvc#8702, which still happens after a crash).
tests/pipeline/test_dvc_internals.py fails if these internals change.
"""

import os
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from retrace.errors import RetraceError
from retrace.pipeline import hashing

DVC = Path(".dvc")
EXPERIMENTS = DVC / "tmp" / "exps"
ENTRY = re.compile(r"[0-9a-f]{64}")  # a run in the run cache; a file being written has another name

NO_REMOTE = "DVC has no remote; `dvc remote add --default team ADDRESS` names one, such as a folder"

Outputs = list[dict[str, Any]]  # of a stage in the run cache: path and md5 of each


def config() -> dict[str, Any]:
    """Return DVC's configuration: the repository's, the user's and the machine's in one.

    The repository is not opened, because that would write files. Raises RetraceError if DVC does
    not accept the configuration.
    """
    from dvc.config import Config, ConfigError

    try:
        return dict(Config(dvc_dir=str(DVC.absolute())))
    except ConfigError as error:
        raise RetraceError(f"DVC's configuration: {' '.join(str(error).split())}") from None


def set_cache(repository: Path, cache: Path) -> None:
    """Make the repository in another folder use a cache, in its local configuration.

    The configuration has a link: it cannot have all characters that a path can have.
    """
    from dvc.config import Config

    link = repository / DVC / "shared-cache"
    link.symlink_to(cache)
    with Config(dvc_dir=str(repository / DVC)).edit("local") as opened:
        settings: Any = opened  # DVC has no type annotations
        settings.setdefault("cache", {})["dir"] = os.path.relpath(link)


def remotes() -> dict[str, Any]:
    """Return DVC's settings of its remotes, with credentials, and the name of the default one.

    Paths are absolute. Raises RetraceError if there is no default remote.
    """
    settings = config()
    if not settings["core"].get("remote"):
        raise RetraceError(NO_REMOTE)
    return {"remote": settings["remote"], "core": {"remote": settings["core"]["remote"]}}


def set_remotes(repository: Path, settings: Mapping[str, Any]) -> None:
    """Give the repository in another folder what `remotes` returned, in its local configuration."""
    from dvc.config import Config

    with Config(dvc_dir=str(repository / DVC)).edit("local") as opened:
        local: Any = opened  # DVC has no type annotations
        for section, values in settings.items():
            local.setdefault(section, {}).update(values)


def cache() -> Path:
    """Return the folder of DVC's cache."""
    return Path(config()["cache"].get("dir") or DVC / "cache")


def objects() -> Path:
    """Return the folder in DVC's cache with the files by MD5; see hashing.object_path."""
    return cache() / "files" / "md5"


def site_cache() -> Path:
    """Return the folder with the databases that DVC unpickles."""
    from dvc.dirs import site_cache_dir

    configured = config()["core"].get("site_cache_dir")
    return Path(os.environ.get("DVC_SITE_CACHE_DIR") or site_cache_dir(configured))


def shell(line: str) -> list[str]:
    """Return the words by which DVC runs a command of a stage."""
    from dvc.stage import run

    return list(run._make_cmd(run.get_executable(), line))


@contextmanager
def opened() -> Iterator[Any]:
    """Yield DVC's repository object of the current folder."""
    from dvc.repo import Repo

    with Repo(".") as repo:
        yield repo


@contextmanager
def opened_queue() -> Iterator[Any]:
    """Yield the queue of DVC's experiments."""
    with opened() as repo:
        yield repo.experiments.celery_queue


def top_level(index: Any) -> tuple[Any, Any, Any]:
    """Return the metrics, plots and artifacts of dvc.yaml's top level, by file, of DVC's index."""
    return index._metrics, index._plots, index._artifacts


def unignored(root: Path, folder: Path) -> list[str]:
    """Return the files in a folder that no .dvcignore excludes, by their paths in the folder."""
    from dvc.ignore import DvcIgnoreFilter
    from dvc_objects.fs.local import LocalFileSystem

    localfs = LocalFileSystem()
    ignore = DvcIgnoreFilter(localfs, str(root))
    return [os.path.relpath(file, folder) for file in ignore.find(localfs, str(folder))]


def cached_runs(repo: Any) -> Iterator[tuple[Path, Outputs]]:
    """Yield each stage run in DVC's run cache: its file and its outputs."""
    for file in sorted(Path(repo.stage_cache.cache_dir).glob("*/*/*")):
        if ENTRY.fullmatch(file.name):
            entry = repo.stage_cache._load_cache(file.parent.name, file.name)
            if entry:
                yield file, entry["outs"]


class Remote:
    """DVC's default remote. Raises RetraceError without one."""

    def __init__(self, repo: Any) -> None:
        from dvc.config import NoRemoteError

        self._repo = repo
        try:
            self._remote = repo.cloud.get_remote()
        except NoRemoteError:
            raise RetraceError(NO_REMOTE) from None
        self.name: str = self._remote.name
        self.address: str = self._remote.fs.unstrip_protocol(self._remote.path)
        self.is_verified: bool = self._remote.odb.verify

    def clear_index(self) -> None:
        """Clear DVC's index of the remote, so that it checks again which files are there."""
        from dvc_data.hashfile.db import get_index

        with closing(get_index(self._remote.odb)) as index:
            index.clear()

    def remove_if_damaged(self, oid: str) -> bool:
        """Remove an object whose bytes differ from the MD5 in its name; return whether they did."""
        odb = self._remote.odb
        path = odb.oid_to_path(oid)
        if not odb.fs.exists(path):
            return False
        with odb.fs.open(path, "rb") as file:
            is_intact = hashing.stream_digest(file, "md5") == oid.removesuffix(".dir")
        if not is_intact:
            odb.fs.remove(path)
        return not is_intact

    def push(self, oids: Iterable[str]) -> tuple[set[str], int]:
        """Send objects; return those that the remote did not have, and how many failed."""
        from dvc_data.hashfile.hash_info import HashInfo

        transferred, failed = self._repo.cloud.push({HashInfo("md5", oid) for oid in oids})
        return {info.value for info in transferred}, len(failed)

    def pull(self, oid: str) -> None:
        """Fetch an object, and the files of a folder, into DVC's cache, if the remote has them."""
        from dvc_data.hashfile.hash_info import HashInfo

        self._repo.cloud.pull({HashInfo("md5", oid)})

    def push_runs(self, files: Iterable[Path]) -> None:
        """Send entries of the run cache to the remote."""
        from dvc_objects.fs.generic import copy
        from dvc_objects.fs.local import LocalFileSystem

        odb = self._remote.legacy_odb
        for file in self.missing_runs(files):
            copy(LocalFileSystem(), str(file), odb.fs, self._run_path(file))

    def missing_runs(self, files: Iterable[Path]) -> list[Path]:
        """Return the entries of the run cache that the remote does not have."""
        odb = self._remote.legacy_odb
        folder = odb.fs.join(odb.path, "runs")
        present = set(odb.fs.find(folder)) if odb.fs.exists(folder) else set()
        return [file for file in files if self._run_path(file) not in present]

    def _run_path(self, file: Path) -> str:
        """Return the path in the remote of an entry of the run cache."""
        odb = self._remote.legacy_odb
        cache = Path(self._repo.cache.legacy.path)
        return odb.fs.join(odb.path, *file.relative_to(cache).parts)


class Task(NamedTuple):
    """A task of the queue: Celery's message, DVC's entry."""

    message: Any
    entry: Any


def taken_tasks(queue: Any) -> list[Task]:
    """List the tasks that a worker has taken, whether they are still Running or done."""
    return [Task(message, entry) for message, entry in queue._iter_processed()]


def tasks_of_workers(queue: Any) -> Collection[str]:
    """Return the IDs of the tasks that workers run. Asking the workers takes a second."""
    return queue._get_running_task_ids()


def task_process(queue: Any, entry: Any) -> psutil.Process | None:
    """Return the process of a task's experiment; None if it has ended."""
    info = queue.proc.get(entry.stash_rev)
    if info is None or info.returncode is not None or not psutil.pid_exists(info.pid):
        return None
    process = psutil.Process(info.pid)
    return process if "exec-run" in process.cmdline() else None  # else the id was reused


def task_folder(queue: Any, entry: Any) -> Path | None:
    """Return the folder that a task's experiment runs in; None if it has none yet."""
    try:
        folder = Path(queue._load_info(entry.stash_rev).root_dir)
    except (OSError, ValueError):
        return None
    return folder if folder.is_dir() else None


def forget_process(queue: Any, entry: Any) -> None:
    """Remove DVC's record of a task's process."""
    del queue.proc[entry.stash_rev]


def forget_attempt(queue: Any, message: Any) -> None:
    """Remove a task's result and its message from the queue."""
    from celery.result import AsyncResult

    with suppress(FileNotFoundError):  # without a result
        AsyncResult(message.headers["id"]).forget()
    queue.celery.purge(message.delivery_tag)


def queue_again(queue: Any, entry: Any) -> None:
    """Put a task into the queue as if it were new.

    This needs an entry in DVC's git stash, with the baseline and the name, and a Celery message.
    """
    from dvc.repo.experiments.queue.tasks import run_exp

    about = {"baseline_rev": entry.baseline_rev, "name": entry.name, "branch": entry.branch}
    message = queue.stash.format_message(entry.head_rev or entry.baseline_rev, **about)
    queue.scm.set_ref(queue.stash.ref, entry.stash_rev, message=f"commit: {message}")
    task: Any = run_exp  # Celery has no type annotations
    queue.celery.signature(task.s(entry.asdict())).delay()


def task_root(queue: Any) -> Path:
    """Return the folder that contains the folders of the queue's experiments."""
    return Path(queue.wdir).parent
