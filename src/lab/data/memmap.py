"""Arrays of any size: in memory, or in a memory-mapped file if they are too large for it."""

import math
import mmap
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from lab import paths
from retrace.errors import FULL, DataError
from retrace.system import memory

MAX_FRACTION = 0.25  # of free memory, for one array
BLOCK = 1 << 24  # bytes to copy at a time


def exceeds_memory(n_bytes: int) -> bool:
    """Return whether an array of this size should be in a file instead of in memory."""
    return n_bytes > MAX_FRACTION * memory.free()


def empty(shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray:
    """Return a new array, uninitialized: in an unnamed file below data/ if memory is too small.

    Raises DataError if the disk has no room for that file.
    """
    n_bytes = math.prod(shape) * dtype.itemsize
    if not exceeds_memory(n_bytes):
        return np.empty(shape, dtype)
    folder = paths.PROCESSED.parent
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder) as file:
        try:
            os.posix_fallocate(
                file.fileno(), 0, n_bytes
            )  # else a full disk kills the process later
        except OSError as error:
            if error.errno not in FULL:
                raise
            reason = f"no room for {n_bytes:,} bytes ({error.strerror})"
            raise DataError(
                f"{folder}: {reason}; free some disk space, then run the command again"
            ) from None
        return np.memmap(file, dtype, "r+", shape=shape)


def blocks(n_rows: int, row_bytes: int) -> Iterable[slice]:
    """Return slices of rows to copy one after the other, of about BLOCK bytes each."""
    size = max(1, BLOCK // max(row_bytes, 1))
    return (slice(first, first + size) for first in range(0, n_rows, size))


def take(rows: np.ndarray, indices: np.ndarray) -> np.ndarray:
    """Copy the rows with these indices; like `rows`, the copy may be in a file."""
    copy = empty((len(indices), *rows.shape[1:]), rows.dtype)
    for block in blocks(len(indices), rows[:1].nbytes):
        copy[block] = rows[indices[block]]
    return copy


def from_file(path: Path, dtype: np.dtype[Any], offset: int, shape: tuple[int, ...]) -> np.memmap:
    """Map the array at `offset` of a file. It is read as it is used; writes to it are not saved."""
    return np.memmap(path, dtype, "c", offset, shape)


class Reader:
    """Advises the kernel which rows of a memory-mapped array are used next."""

    def __init__(self, rows: np.memmap) -> None:
        # numpy has no public access to the map.
        self._map: mmap.mmap = rows._mmap  # pyright: ignore[reportAttributeAccessIssue]
        self._first = rows.offset % mmap.ALLOCATIONGRANULARITY
        self._row_bytes = rows[:1].nbytes

    def in_order(self) -> None:
        """Read ahead: from here on rows are used one after the other."""
        self._map.madvise(mmap.MADV_NORMAL)

    def at_random(self) -> None:
        """Read only what is expected: from here on rows are used in any order."""
        self._map.madvise(mmap.MADV_RANDOM)

    def expect(self, indices: Iterable[int]) -> None:
        """Start to read these rows."""
        for index in indices:
            begin = self._first + index * self._row_bytes
            page = begin - begin % mmap.PAGESIZE
            self._map.madvise(mmap.MADV_WILLNEED, page, begin + self._row_bytes - page)
