"""MNIST's file format, in which others come as well: an array of bytes behind its shape."""

import math
from pathlib import Path

import numpy as np

from retrace import memory
from retrace.errors import DataError
from retrace.samples import Samples


def labelled(images: Path, labels: Path, class_names: tuple[str, ...]) -> Samples:
    """The grey images of one file, of shape (n, 1, height, width), with the labels of another."""
    return Samples(_array(images)[:, np.newaxis], _array(labels).astype(np.int64), class_names)


def _array(path: Path) -> np.ndarray:
    """An IDX file of bytes: two zeros, the type 8, the number of dimensions, a big-endian size each, the data."""
    with path.open("rb") as file:
        begin = file.read(4)
        n_dimensions = begin[3] if begin[:3] == b"\0\0\x08" and len(begin) > 3 else 0
        sizes = file.read(4 * n_dimensions)
    shape = tuple(int.from_bytes(sizes[at : at + 4], "big") for at in range(0, len(sizes), 4))
    start = 4 + len(sizes)
    if not shape or not all(shape) or path.stat().st_size != start + math.prod(shape):
        raise DataError(f"{path}: not an IDX file of bytes; remove it and run `dvc repro download`")
    return memory.mapped(path, np.dtype(np.uint8), start, shape)
