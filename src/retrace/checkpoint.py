"""Crash-safe checkpoints: after a kill, the same command resumes training from the newest one.

They are stored in the main repository, because DVC deletes or reverts files in the folders where it
runs stages. Their folder is named after a fingerprint of parameters, data, code, hardware and
library versions, so a training never loads a checkpoint of another one. A file's name contains its
SHA-256. The last two are kept, in case the newest is damaged.
"""

import hashlib
import json
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any, TypeVar

import safetensors

from retrace.errors import DataError
from retrace.system import files, processes

FOLDER = Path(".retrace/checkpoints")
KEPT = 2
EVERY_S = 10.0  # minimum between two checkpoints
SHARE = 0.01  # of the training time that saving may take
# Errors of loading an intact file that is not a checkpoint.
FOREIGN = (safetensors.SafetensorError, LookupError, TypeError, ValueError)
ENDS_S = 5.0  # within which an interrupted training ends

Loaded = TypeVar("Loaded")


class Checkpoints:
    """The checkpoints in a folder that this process has locked."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for unfinished in folder.glob(".*"):  # left by a killed process
            unfinished.unlink()
        self._due = time.monotonic() + EVERY_S
        self._warned = False

    @property
    def is_due(self) -> bool:
        """Whether it is time to save the next one."""
        return time.monotonic() >= self._due

    def newest(self, load: Callable[[Path], Loaded]) -> Loaded | None:
        """Load the newest intact checkpoint. Delete damaged ones, with a warning on stderr."""
        for path in reversed(in_folder(self.folder)):
            with suppress(*FOREIGN):
                if files.is_intact(path):
                    return load(path)
            print(
                f"warning: {path}: damaged; the previous checkpoint is used, if there is one",
                file=sys.stderr,
            )
            path.unlink()
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
            self._warn(error)
        else:
            self._warned = False
            for old in in_folder(self.folder)[:-KEPT]:
                old.unlink(missing_ok=True)
        ended = time.monotonic()
        self._due = ended + max(EVERY_S, (ended - started) / SHARE)

    def _warn(self, error: Exception) -> None:
        if not self._warned:
            print(f"warning: {error}; training continues without this checkpoint", file=sys.stderr)
        self._warned = True


def fingerprint(*parts: str) -> str:
    """Hash everything that determines the trained weights bit for bit; return 32 hex digits."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


@contextmanager
def locked(fingerprint: str) -> Iterator[Checkpoints]:
    """Lock this training's checkpoint folder, or a new folder if another process holds the lock."""
    for folder in _folders(fingerprint):
        folder.mkdir(parents=True, exist_ok=True)
        with processes.try_lock(folder, ENDS_S if in_folder(folder) else 0.0) as free:
            if free:
                yield Checkpoints(folder)
                return


def folders() -> list[Path]:
    """Return the folders of all trainings that have not ended."""
    return sorted(folder for folder in (files.root() / FOLDER).glob("*") if folder.is_dir())


def remove(folder: Path) -> bool:
    """Delete a folder of checkpoints unless a process uses it. Return whether it was deleted."""
    with processes.try_lock(folder) as free:
        if free:
            shutil.rmtree(folder, ignore_errors=True)
        return free


def in_folder(folder: Path) -> list[Path]:
    """Return the checkpoints in a folder, oldest first."""
    return sorted(folder.glob("*.safetensors"))


def facts(path: Path) -> dict[str, Any]:
    """Return the facts that a checkpoint contains besides its tensors."""
    with safetensors.safe_open(path, framework="numpy") as file:
        return json.loads(file.metadata()["facts"])


def _folders(fingerprint: str) -> Iterator[Path]:
    """Yield the folders with checkpoints of this training, the furthest first; then new ones."""
    root = files.root() / FOLDER
    used = [folder for folder in root.glob(f"{fingerprint}*") if in_folder(folder)]
    yield from sorted(used, key=lambda folder: in_folder(folder)[-1].name, reverse=True)
    yield from (
        root / (fingerprint if number == 1 else f"{fingerprint}-{number}") for number in count(1)
    )
