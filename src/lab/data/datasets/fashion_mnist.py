"""Fashion-MNIST: 60,000 training and 10,000 test images of articles, 28x28 gray.

By Xiao, Rasul and Vollgraf (2017).
"""

from functools import partial
from pathlib import Path

from lab.data import download, idx, sources
from lab.data.samples import Splits

TRAIN_IMAGES = sources.RawFile(
    "train-images-idx3-ubyte",
    47_040_016,
    "f4a8712d7a061bf5bd6d2ca38dc4d50a",
    "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
)
TRAIN_LABELS = sources.RawFile(
    "train-labels-idx1-ubyte",
    60_008,
    "9018921c3c673c538a1fc5bad174d6f9",
    "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
)
TEST_IMAGES = sources.RawFile(
    "t10k-images-idx3-ubyte",
    7_840_016,
    "8181f5470baa50b63fa0f6fddb340f0a",
    "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
)
TEST_LABELS = sources.RawFile(
    "t10k-labels-idx1-ubyte",
    10_008,
    "15d484375f8d13e6eb1aabb0c3f46965",
    "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
)
FILES = (TRAIN_IMAGES, TRAIN_LABELS, TEST_IMAGES, TEST_LABELS)
OFFICIAL = "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion"
DEBIAN = "./usr/share/datasets/fashion-mnist"
SOURCES = {
    "RETRACE_MIRROR": sources.mirror("fashion_mnist"),
    "official address": sources.official(
        {file.name: f"{OFFICIAL}/{file.name}.gz" for file in FILES}
    ),
    "Debian package dataset-fashion-mnist": sources.debian(
        "dataset-fashion-mnist", {file.name: f"{DEBIAN}/{file.name}.gz" for file in FILES}
    ),
}
CLASS_NAMES = (
    "T-shirt/top",
    "trouser",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "ankle boot",
)

collect = partial(download.fetch, "fashion_mnist", FILES, SOURCES)


def read(folder: Path) -> Splits:
    """Read 60,000 training and 10,000 test images (n, 1, 28, 28)."""
    train = idx.labeled(folder / TRAIN_IMAGES.name, folder / TRAIN_LABELS.name, CLASS_NAMES)
    test = idx.labeled(folder / TEST_IMAGES.name, folder / TEST_LABELS.name, CLASS_NAMES)
    return Splits(train, test=test)
