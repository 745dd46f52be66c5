"""The data sets, by the name in params.yaml.

To add a data set: a module here with the functions of `Dataset`, a line in this table, and its
settings under `datasets:`.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from lab.data.datasets import (
    cifar10,
    circles,
    digits,
    fashion_mnist,
    image_csv,
    image_folder,
    mnist,
)
from lab.data.samples import Splits


class Dataset(Protocol):
    """The functions of a data set's module."""

    @property
    def collect(self) -> Callable[[Path], str]:
        """`collect(folder)` fills `folder` with the raw files, and returns their source."""
        ...

    @property
    def read(self) -> Callable[..., Splits]:
        """`read(folder, *, settings...)` returns the samples in those files."""
        ...


DATASETS: dict[str, Dataset] = {
    "mnist": mnist,
    "fashion_mnist": fashion_mnist,
    "cifar10": cifar10,
    "digits": digits,
    "circles": circles,
    "image_folder": image_folder,
    "image_csv": image_csv,
}
