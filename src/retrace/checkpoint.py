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
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from torch import Tensor

from retrace import files, processes
from retrace.errors import DataError

FOLDER = Path(".retrace/checkpoints")
KEPT = 2
EVERY_S = 10.0  # between two checkpoints, at least
SHARE = 0.01  # of training's time that they may take
ENDS_S = 5.0  # in which a training is over that was told to end

Values = dict[str, Any]  # tensors, and what JSON can hold


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

    def newest(self) -> Values | None:
        """The last one that is as it was written. A warning on stderr names those that are not; they are deleted."""
        for path in reversed(in_folder(self.folder)):
            with suppress(safetensors.SafetensorError, LookupError, TypeError, ValueError):  # whole, and none of ours
                if files.is_intact(path):
                    return safetensors.torch.load_file(path) | facts(path)
            print(f"warning: {path}: damaged, so the checkpoint before it is taken", file=sys.stderr)
            path.unlink()
        return None

    def save(self, step: int, values: Values) -> None:
        """They are on the disk, in the place of the last but one. Where they cannot be, the others stay, and a warning
        on stderr says so.
        """
        began = time.monotonic()
        tensors = {name: value.contiguous() for name, value in values.items() if isinstance(value, Tensor)}
        # One metadata key: safetensors writes several in random order.
        others = json.dumps({name: value for name, value in values.items() if name not in tensors})
        content = safetensors.torch.save(tensors, {"facts": others})
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
        self._due = ended + max(EVERY_S, (ended - began) / SHARE)

    def _warn(self, error: Exception) -> None:
        if not self._warned:
            print(f"warning: {error}; training goes on without this checkpoint", file=sys.stderr)
        self._warned = True


def fingerprint(*parts: str) -> str:
    """Of all that decides a training's bits, in 32 hexadecimal digits."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


@contextmanager
def held(fingerprint: str) -> Iterator[Checkpoints]:
    """The checkpoints of the training with that fingerprint, for this process alone. Where another one is at the very
    same training and does not end soon, as in a queue, this one has a folder of its own.
    """
    for folder in _places(fingerprint):
        folder.mkdir(parents=True, exist_ok=True)
        with processes.try_lock(folder, ENDS_S if in_folder(folder) else 0.0) as free:
            if free:
                yield Checkpoints(folder)
                return


def every() -> list[Path]:
    """The folders of all trainings that did not end, or have not ended yet."""
    return sorted(folder for folder in (files.root() / FOLDER).glob("*") if folder.is_dir())


def remove(folder: Path) -> bool:
    """Whether the checkpoints in `folder` are gone; not if a process uses them."""
    with processes.try_lock(folder) as free:
        if free:
            shutil.rmtree(folder, ignore_errors=True)
        return free


def in_folder(folder: Path) -> list[Path]:
    """The checkpoints in `folder`, oldest first."""
    return sorted(folder.glob("*.safetensors"))


def facts(path: Path) -> Values:
    """What the checkpoint at `path` holds beside its tensors."""
    with safetensors.safe_open(path, framework="numpy") as file:
        return json.loads(file.metadata()["facts"])


def _places(fingerprint: str) -> Iterator[Path]:
    """First the folders with checkpoints of it, the furthest first; then those that there could be."""
    root = files.root() / FOLDER
    there = [folder for folder in root.glob(f"{fingerprint}*") if in_folder(folder)]
    yield from sorted(there, key=lambda folder: in_folder(folder)[-1].name, reverse=True)
    yield from (root / (fingerprint if number == 1 else f"{fingerprint}-{number}") for number in count(1))
