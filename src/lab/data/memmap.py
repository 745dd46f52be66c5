"""Arrays of any size: in memory, or in a memory-mapped file if they are too large for it."""

import bisect
import errno
import math
import mmap
import os
import shutil
import tempfile
from collections.abc import Iterable, Sequence
from itertools import accumulate
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
            _reserve(file.fileno(), n_bytes)
        except OSError as error:
            if error.errno not in FULL:
                raise
            reason = f"no room for {n_bytes:,} bytes ({error.strerror})"
            raise DataError(
                f"{folder}: {reason}; free some disk space, then run the command again"
            ) from None
        return np.memmap(file, dtype, "r+", shape=shape)


def _reserve(file: int, n_bytes: int) -> None:
    """Reserve room for a file: a full disk would kill a process that writes to a map of it.

    macOS cannot reserve it; there, the file is refused if the disk has no room for it now.
    """
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file, 0, n_bytes)
    elif shutil.disk_usage(file).free < n_bytes:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    else:
        os.truncate(file, n_bytes)


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


class Shards:
    """The rows of several arrays, one after the other, with what readers need of one array.

    Rows are copied when they are indexed.
    """

    def __init__(self, parts: Sequence[np.ndarray]) -> None:
        self.parts = parts
        self.starts = np.cumsum([0, *map(len, parts)])  # the last one is the number of rows
        self.shape = (int(self.starts[-1]), *parts[0].shape[1:])
        self.ndim = len(self.shape)
        self.dtype = parts[0].dtype
        self.nbytes = sum(part.nbytes for part in parts)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: Any) -> np.ndarray:
        """Return a row, or copy the rows of a slice, of an array of indices, or of a mask."""
        indices = np.asarray(range(len(self))[key] if isinstance(key, int | slice) else key)
        if indices.dtype == np.bool_:
            indices = np.flatnonzero(indices)
        rows = self._copy(np.atleast_1d(indices))
        return rows if indices.ndim else rows[0]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """Copy all rows into one array in memory."""
        return np.concatenate(self.parts, dtype=dtype)

    def _copy(self, indices: np.ndarray) -> np.ndarray:
        rows = np.empty((len(indices), *self.shape[1:]), self.dtype)
        shards = np.searchsorted(self.starts, indices, side="right") - 1
        positions = indices - self.starts[shards]
        # For a batch, faster than a copy from each shard.
        for row, shard, position in zip(rows, shards.tolist(), positions.tolist(), strict=True):
            row[...] = self.parts[shard][position]
        return rows


class Reader:
    """Advises the kernel which rows of memory-mapped arrays are used next."""

    def __init__(self, parts: Sequence[np.memmap]) -> None:
        # numpy has no public access to the map.
        self._maps: list[mmap.mmap] = [
            part._mmap  # pyright: ignore[reportAttributeAccessIssue]
            for part in parts
        ]
        self._firsts = [part.offset % mmap.ALLOCATIONGRANULARITY for part in parts]
        self._starts = [0, *accumulate(len(part) for part in parts[:-1])]
        self._row_bytes = parts[0][:1].nbytes

    def in_order(self) -> None:
        """Read ahead: from here on rows are used one after the other."""
        for part in self._maps:
            part.madvise(mmap.MADV_NORMAL)

    def at_random(self) -> None:
        """Read only what is expected: from here on rows are used in any order."""
        for part in self._maps:
            part.madvise(mmap.MADV_RANDOM)

    def expect(self, indices: Iterable[int]) -> None:
        """Start to read these rows."""
        for index in indices:
            shard = bisect.bisect_right(self._starts, index) - 1
            begin = self._firsts[shard] + (index - self._starts[shard]) * self._row_bytes
            page = begin - begin % mmap.PAGESIZE
            length = begin + self._row_bytes - page
            self._maps[shard].madvise(mmap.MADV_WILLNEED, page, length)
