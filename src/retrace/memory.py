"""Arrays of any size: in memory, or in a file of the same shape where they would crowd it."""

import math
import mmap
import os
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from retrace import paths
from retrace.errors import FULL, DataError

CGROUPS = Path("/sys/fs/cgroup")
OWN_GROUPS = Path("/proc/self/cgroup")
FILES = {"": ("memory.max", "memory.current"), "memory": ("memory.limit_in_bytes", "memory.usage_in_bytes")}
SHARE = 0.25  # of free memory, which an array of ours may take
BLOCK = 1 << 24  # bytes, that are copied at a time


def free() -> int:
    """In bytes, of the machine and of the container, or control group, that this may be in."""
    left = psutil.virtual_memory().available
    for limit, used in _limits():
        if limit.exists() and (said := limit.read_text(encoding="ascii").strip()).isdigit():
            left = min(left, int(said) - int(used.read_text(encoding="ascii")) + _cached(limit.parent / "memory.stat"))
    return max(left, 0)


def _limits() -> Iterator[tuple[Path, Path]]:
    """Where the kernel tells the limit and the use: of this process's own group, and of all that hold it."""
    groups = OWN_GROUPS.read_text(encoding="utf-8").splitlines() if OWN_GROUPS.exists() else []
    for group in groups:  # number:controllers:path, of version 2 without a controller
        _, controllers, place = group.split(":", 2)
        own = Path(place.lstrip("/"))
        for kind, (limit, used) in FILES.items():
            if kind in controllers.split(","):
                for folder in (own, *own.parents):
                    yield CGROUPS / kind / folder / limit, CGROUPS / kind / folder / used


def _cached(told: Path) -> int:
    """Of what a group uses, what files take that the kernel lets go of for whoever needs memory."""
    lines = told.read_text(encoding="ascii").splitlines() if told.exists() else []
    return sum(int(line.split()[1]) for line in lines if line.split()[0] in ("inactive_file", "active_file"))


def crowds(n_bytes: int) -> bool:
    """Whether so much is too much to be in memory, beside what else has to be."""
    return n_bytes > SHARE * free()


def array(shape: tuple[int, ...], kind: np.dtype[Any]) -> np.ndarray:
    """A new one, with whatever in it; of a file without a name, from which the kernel takes what is used, where it
    would crowd the memory. Raises DataError where the disk has no room for it either.
    """
    n_bytes = math.prod(shape) * kind.itemsize
    if not crowds(n_bytes):
        return np.empty(shape, kind)
    place = paths.PROCESSED.parent
    place.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=place) as file:
        try:
            os.posix_fallocate(file.fileno(), 0, n_bytes)  # or a full disk would be a fault of memory, which kills
        except OSError as error:
            if error.errno not in FULL:
                raise
            raise DataError(f"{place}: no room for {n_bytes:,} bytes ({error.strerror}); make room for them") from None
        return np.memmap(file, kind, "r+", shape=shape)


def blocks(n: int, row: int) -> Iterable[slice]:
    """Of `n` rows of `row` bytes, in which they are copied."""
    size = max(1, BLOCK // max(row, 1))
    return (slice(first, first + size) for first in range(0, n, size))


def taken(rows: np.ndarray, indices: np.ndarray) -> np.ndarray:
    """A copy of those rows, wherever either has room."""
    copy = array((len(indices), *rows.shape[1:]), rows.dtype)
    for block in blocks(len(indices), rows[:1].nbytes):
        copy[block] = rows[indices[block]]
    return copy


def mapped(path: Path, kind: np.dtype[Any], offset: int, shape: tuple[int, ...]) -> np.memmap:
    """The array in that place of the file, of which the kernel reads what is used; what is written to it is lost."""
    return np.memmap(path, kind, "c", offset, shape)


class Reader:
    """Reads rows of a mapped file before they are used."""

    def __init__(self, rows: np.memmap) -> None:
        self._map: mmap.mmap = rows._mmap  # pyright: ignore[reportAttributeAccessIssue] - how else to advise?
        self._first, self._row = rows.offset % mmap.ALLOCATIONGRANULARITY, rows[:1].nbytes

    def in_order(self) -> None:
        """Rows are used one after the other from here on: the kernel reads ahead."""
        self._map.madvise(mmap.MADV_NORMAL)

    def at_random(self) -> None:
        """Rows are used in any order from here on: the kernel reads what is expected, and no neighbours."""
        self._map.madvise(mmap.MADV_RANDOM)

    def expect(self, indices: Iterable[int]) -> None:
        """They are on their way."""
        for index in indices:
            begin = self._first + index * self._row
            page = begin - begin % mmap.PAGESIZE
            self._map.madvise(mmap.MADV_WILLNEED, page, begin + self._row - page)
