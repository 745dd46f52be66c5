"""MNIST's file format, in which others come as well: an array of bytes behind its shape."""

import math
from pathlib import Path

import numpy as np

from retrace.errors import DataError
from retrace.samples import Samples


def labelled(images: Path, labels: Path, class_names: tuple[str, ...]) -> Samples:
    """The grey images of one file, of shape (n, 1, height, width), with the labels of another."""
    return Samples(_array(images)[:, np.newaxis], _array(labels).astype(np.int64), class_names)


def _array(path: Path) -> np.ndarray:
    """An IDX file of bytes: two zeros, the type 8, the number of dimensions, a big-endian size each, the data."""
    content = path.read_bytes()
    n_dimensions = content[3] if content[:3] == b"\0\0\x08" and len(content) > 3 else 0
    start = 4 + 4 * n_dimensions
    shape = tuple(int.from_bytes(content[at : at + 4], "big") for at in range(4, start, 4))
    if not shape or len(content) != start + math.prod(shape):
        raise DataError(f"{path}: not an IDX file of bytes; remove it and run `dvc repro download`")
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)
