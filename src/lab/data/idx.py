"""IDX, the file format of MNIST and Fashion-MNIST: the shape of an array, then its bytes."""

import math
from pathlib import Path

import numpy as np

from lab.data import memmap
from lab.data.samples import Samples
from retrace.errors import DataError


def labeled(images: Path, labels: Path, class_names: tuple[str, ...]) -> Samples:
    """Return the gray images of one file (n, 1, height, width) with the labels of another."""
    return Samples(_read(images)[:, np.newaxis], _read(labels).astype(np.int64), class_names)


def _read(path: Path) -> np.ndarray:
    """Map the array of an IDX file. Raises DataError if it is not an IDX file of bytes.

    The format: two zeros, the type 8, the number of dimensions, their sizes (big-endian, four
    bytes each), the data.
    """
    with path.open("rb") as file:
        begin = file.read(4)
        n_dimensions = begin[3] if begin[:3] == b"\0\0\x08" and len(begin) > 3 else 0
        sizes = file.read(4 * n_dimensions)
    shape = tuple(int.from_bytes(sizes[at : at + 4], "big") for at in range(0, len(sizes), 4))
    start = 4 + len(sizes)
    if not shape or not all(shape) or path.stat().st_size != start + math.prod(shape):
        raise DataError(f"{path}: not an IDX file of bytes; remove it and run `dvc repro download`")
    return memmap.from_file(path, np.dtype(np.uint8), start, shape)
