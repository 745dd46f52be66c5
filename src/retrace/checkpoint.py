"""A training's state on the disk, whole or not at all, from which the same command goes on after a kill.

Under the main repository, since DVC deletes or reverts what is its own, in a folder of the training's fingerprint:
other parameters, data, code, hardware or libraries never see it. A file's name holds its SHA-256; the last two are
kept, so that a damaged one has another before it.
"""

import hashlib
import json
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from torch import Tensor

from retrace import paths, processes
from retrace.errors import DataError

FOLDER = Path(".retrace/checkpoints")
KEPT = 2
EVERY_S = 10.0  # between two checkpoints, at least
SHARE = 0.01  # of training's time that they may take


@dataclass(frozen=True)
class Checkpoint:
    """What was saved: tensors, and what is none, of JSON's types."""

    tensors: dict[str, Tensor]
    facts: dict[str, Any]


class Checkpoints:
    """Those in `folder`, which no other process has. `is_due` says when to save the next one."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for unfinished in folder.glob(".*"):  # by a process that was killed
            unfinished.unlink()
        self._due = time.monotonic() + EVERY_S
        self._warned = False

    @property
    def is_due(self) -> bool:
        return time.monotonic() >= self._due

    def newest(self) -> Checkpoint | None:
        """The last one that is as it was written. A warning on stderr names those that are not; they are deleted."""
        for path in reversed(files(self.folder)):
            if _is_whole(path):
                return Checkpoint(safetensors.torch.load_file(path), facts(path))
            print(f"warning: {path}: damaged, so the checkpoint before it is taken", file=sys.stderr)
            path.unlink()
        return None

    def save(self, step: int, made: Checkpoint) -> None:
        """It is on the disk, in the place of the last but one. Where it cannot be, the others stay, and a warning on
        stderr says so.
        """
        began = time.monotonic()
        # One metadata key: safetensors writes several in random order.
        content = safetensors.torch.save(made.tensors, {"facts": json.dumps(made.facts)})
        path = self.folder / f"{step:012}-{hashlib.sha256(content).hexdigest()}.safetensors"
        try:
            with paths.atomic(path, len(content)) as unfinished:
                unfinished.write_bytes(content)
        except (OSError, DataError) as error:
            self._warn(error)
        else:
            self._warned = False
            for old in files(self.folder)[:-KEPT]:
                old.unlink(missing_ok=True)
        ended = time.monotonic()
        self._due = ended + max(EVERY_S, (ended - began) / SHARE)

    def clear(self) -> None:
        """What they were for is done."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _warn(self, error: Exception) -> None:
        if not self._warned:
            print(f"warning: {error}; training goes on without this checkpoint", file=sys.stderr)
        self._warned = True


def fingerprint(*parts: str) -> str:
    """Of all that decides a training's bits, in 32 hexadecimal digits."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


@contextmanager
def of(fingerprint: str) -> Iterator[Checkpoints]:
    """The checkpoints of the training with that fingerprint. Where another process is at the very same training, as in
    a queue, this one has a folder of its own.
    """
    for number in count(1):
        folder = paths.root() / FOLDER / (fingerprint if number == 1 else f"{fingerprint}-{number}")
        folder.mkdir(parents=True, exist_ok=True)
        with processes.alone(folder) as free:
            if free:
                yield Checkpoints(folder)
                return


def every() -> list[Path]:
    """The folders that have checkpoints."""
    return [folder for folder in sorted((paths.root() / FOLDER).glob("*")) if files(folder)]


def files(folder: Path) -> list[Path]:
    """The checkpoints in `folder`, oldest first."""
    return sorted(folder.glob("*.safetensors"))


def facts(path: Path) -> dict[str, Any]:
    """What the checkpoint at `path` holds beside its tensors."""
    with safetensors.safe_open(path, framework="numpy") as file:
        return json.loads(file.metadata()["facts"])


def _is_whole(path: Path) -> bool:
    with path.open("rb") as file:
        return path.stem.endswith(hashlib.file_digest(file, "sha256").hexdigest())
