"""Crash-safe checkpoints: after a kill, the same command resumes training from the newest one.

They are stored in the main repository, because DVC deletes or reverts files in the folders where it
runs stages. RETRACE_CHECKPOINTS names another folder, which several machines may share, or an
address in S3, to which each checkpoint is copied. Their folder is named after a fingerprint of
parameters, data, code, hardware and library versions, so a training never loads a checkpoint of
another one. A file's name contains its SHA-256. The last two are kept, in case the newest is
damaged.

Locks only keep two processes from writing to one folder. Any process may read all checkpoints of
its training, so the lock of a machine that died, which may last, keeps nobody from resuming.
"""

import hashlib
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any, TypeVar

import safetensors

from retrace.errors import DataError
from retrace.system import files, object_store, processes
from retrace.system.object_store import ObjectStore

VARIABLE = "RETRACE_CHECKPOINTS"
FOLDER = Path(".retrace/checkpoints")  # unless the variable names another
KEPT = 2
EVERY_S = 10.0  # minimum between two checkpoints
SHARE = 0.01  # of the training time that saving may take
# Errors of loading an intact file that is not a checkpoint.
FOREIGN = (safetensors.SafetensorError, LookupError, TypeError, ValueError)
ENDS_S = 5.0  # within which an interrupted training ends

Loaded = TypeVar("Loaded")


class Checkpoints:
    """The checkpoints of one training; this process has locked the folder that it writes to."""

    def __init__(self, folder: Path, store: ObjectStore | None = None) -> None:
        self.folder = folder
        for unfinished in folder.glob(".*"):  # left by a killed process
            unfinished.unlink(missing_ok=True)
        self._store = store
        self._uploads = ThreadPoolExecutor(max_workers=1)
        self._due = time.monotonic() + EVERY_S
        self._warned: set[str] = set()

    @property
    def is_due(self) -> bool:
        """Whether it is time to save the next one."""
        return time.monotonic() >= self._due

    def newest(self, load: Callable[[Path], Loaded]) -> Loaded | None:
        """Load the furthest intact checkpoint. Delete damaged ones, with a warning on stderr."""
        for path in self._furthest_first():
            try:
                if files.is_intact(path):
                    return load(path)
            except FileNotFoundError:  # the process that writes to its folder has deleted it
                continue
            except FOREIGN:
                pass
            print(
                f"warning: {path}: damaged; the previous checkpoint is used, if there is one",
                file=sys.stderr,
            )
            path.unlink(missing_ok=True)
        return None

    def save(self, step: int, encode: Callable[[], bytes]) -> None:
        """Write a checkpoint and delete the oldest. If the disk is full, warn and keep the others.

        `encode` returns a safetensors file whose metadata have JSON under `facts`.
        """
        started = time.monotonic()
        content = encode()
        path = self.folder / f"{step:012}-{hashlib.sha256(content).hexdigest()}.safetensors"
        try:
            with files.atomic(path, len(content)) as unfinished:
                unfinished.write_bytes(content)
        except (OSError, DataError) as error:
            self._warn("disk", f"{error}; training continues without this checkpoint")
        else:
            self._warned.discard("disk")
            for old in in_folder(self.folder)[:-KEPT]:
                old.unlink(missing_ok=True)
            if self._store:
                self._uploads.submit(self._upload, self._store)
        ended = time.monotonic()
        self._due = ended + max(EVERY_S, (ended - started) / SHARE)

    def delete(self) -> None:
        """Delete this training's checkpoints, except in folders that other processes write to."""
        for folder in _folders_of(self.folder):
            remove(folder)

    def close(self) -> None:
        """Wait until the newest checkpoint is in S3."""
        self._uploads.shutdown()

    def _furthest_first(self) -> Iterator[Path]:
        """Yield the checkpoints in all folders of this training, and then from S3, by progress."""
        local = [path for folder in _folders_of(self.folder) for path in in_folder(folder)]
        stored = self._store.names() if self._store else []
        for name in sorted({*stored, *(path.name for path in local)}, reverse=True):
            yield from (path for path in local if path.name == name)
            if self._store and name in stored:
                self._store.download(self.folder / name)
                yield self.folder / name

    def _upload(self, store: ObjectStore) -> None:
        """Copy the newest checkpoint to S3, unless it is there, and delete the oldest there."""
        try:
            path = in_folder(self.folder)[-1]
            stored = store.names()
            if path.name not in stored:
                store.upload(path)
                for old in sorted([*stored, path.name])[:-KEPT]:
                    store.delete(old)
        except Exception as error:  # noqa: BLE001 - this thread's result is never read
            kind = "" if isinstance(error, DataError) else f"{type(error).__name__}: "
            state = "training continues, with its checkpoints on this machine"
            self._warn("store", f"{kind}{error}; {state}")
        else:
            self._warned.discard("store")

    def _warn(self, kind: str, text: str) -> None:
        """Print a warning, once until the next success."""
        if kind not in self._warned:
            print(f"warning: {text}", file=sys.stderr)
        self._warned.add(kind)


def fingerprint(*parts: str) -> str:
    """Hash everything that determines the trained weights bit for bit; return 32 hex digits."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


@contextmanager
def locked(fingerprint: str) -> Iterator[Checkpoints]:
    """Lock this training's checkpoint folder, or a new folder if another process holds the lock.

    Raises DataError if RETRACE_CHECKPOINTS names no folder, or a store that cannot be used.
    """
    store = _store(fingerprint)
    for folder in _candidates(fingerprint):
        folder.mkdir(parents=True, exist_ok=True)
        with processes.try_lock(folder, ENDS_S if in_folder(folder) else 0.0) as free:
            if free:
                checkpoints = Checkpoints(folder, store)
                try:
                    yield checkpoints
                finally:
                    checkpoints.close()
                return


def folders() -> list[Path]:
    """Return the folders of all trainings that have not ended."""
    return sorted(folder for folder in _location().glob("*") if folder.is_dir())


def remove(folder: Path) -> bool:
    """Delete a folder of checkpoints unless a process uses it. Return whether it was deleted.

    With the last folder of a training its checkpoints in S3 are deleted too.
    """
    with processes.try_lock(folder) as free:
        if not free:
            return False
        shutil.rmtree(folder, ignore_errors=True)
    if not _folders_of(folder) and (store := _store(_fingerprint_of(folder))):
        try:
            for name in store.names():
                store.delete(name)
        except DataError as error:
            print(f"warning: {error}; its checkpoints remain there", file=sys.stderr)
    return True


def in_folder(folder: Path) -> list[Path]:
    """Return the checkpoints in a folder, oldest first."""
    return sorted(folder.glob("*.safetensors"))


def facts(path: Path) -> dict[str, Any]:
    """Return the facts that a checkpoint contains besides its tensors."""
    with safetensors.safe_open(path, framework="numpy") as file:
        return json.loads(file.metadata()["facts"])


def _location() -> Path:
    """Return the folder that has the folders of all trainings. Raises DataError."""
    given = os.environ.get(VARIABLE, "")
    if not given or given.startswith(object_store.SCHEME):
        return files.root() / FOLDER
    folder = files.root() / given
    if "://" in given or not folder.is_dir():
        allowed = f"a folder, or {object_store.SCHEME}BUCKET/FOLDER"
        remedy = f"create it, mount it, or `unset {VARIABLE}`"
        raise DataError(f"{VARIABLE} is {given!r}; should be {allowed}; {remedy}")
    return folder


def _store(fingerprint: str) -> ObjectStore | None:
    """Return where in S3 the checkpoints of a training are. Raises DataError."""
    given = os.environ.get(VARIABLE, "")
    if not given.startswith(object_store.SCHEME):
        return None
    return ObjectStore(f"{given.rstrip('/')}/{fingerprint}")


def _candidates(fingerprint: str) -> Iterator[Path]:
    """Yield the folders with checkpoints of this training, the furthest first; then new ones."""
    root = _location()
    used = [folder for folder in _folders_of(root / fingerprint) if in_folder(folder)]
    yield from sorted(used, key=_progress, reverse=True)
    yield from (
        root / (fingerprint if number == 1 else f"{fingerprint}-{number}") for number in count(1)
    )


def _progress(folder: Path) -> list[str]:
    """Return the name of the newest checkpoint, which begins with its step, to sort by."""
    return [path.name for path in in_folder(folder)[-1:]]


def _folders_of(folder: Path) -> list[Path]:
    """Return the folders of the training to which `folder` belongs, one a process."""
    name = _fingerprint_of(folder)
    every = (folder.parent / name, *folder.parent.glob(f"{name}-*"))
    return [each for each in every if each.is_dir()]


def _fingerprint_of(folder: Path) -> str:
    return folder.name.partition("-")[0]
