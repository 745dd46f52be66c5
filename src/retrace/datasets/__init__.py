"""The data sets, by the name in params.yaml.

To add one: a module here with what `Dataset` asks for, a line in this table, its settings under `datasets:`.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from retrace.datasets import cifar10, circles, digits, fashion_mnist, image_folder, mnist
from retrace.samples import Parts


class Dataset(Protocol):
    """What a module here holds."""

    @property
    def collect(self) -> Callable[[Path], str]:
        """`collect(folder)`: `folder` holds the raw files and nothing else; returns where they came from."""
        ...

    @property
    def read(self) -> Callable[..., Parts]:
        """`read(folder, *, settings...)`: the samples in those files."""
        ...


DATASETS: dict[str, Dataset] = {
    "mnist": mnist,
    "fashion_mnist": fashion_mnist,
    "cifar10": cifar10,
    "digits": digits,
    "circles": circles,
    "image_folder": image_folder,
}
