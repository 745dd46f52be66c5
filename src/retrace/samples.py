"""Labelled inputs: what a data set is read into, and what a part of it is."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from retrace import memmap


@dataclass(frozen=True)
class Samples:
    """`inputs` are images, of shape (n, channels, height, width) uint8, or features, of shape (n, d) float32;
    `labels` of shape (n,) int64 are indices of `class_names`. Where each sample is a file, `names` has its n paths.
    Where pictures of any size were cut to the images' square, their shorter edge had been made `resize` pixels.
    """

    inputs: np.ndarray
    labels: np.ndarray
    class_names: tuple[str, ...]
    names: np.ndarray | None = None
    resize: int | None = None

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def are_images(self) -> bool:
        return self.inputs.ndim == 4

    def name(self, index: int) -> str:
        """The sample's file, or its number, from 0."""
        return str(index if self.names is None else self.names[index])

    def label(self, index: int) -> str:
        """The name of the sample's class."""
        return self.class_names[self.labels[index]]

    def take(self, indices: np.ndarray) -> "Samples":
        """Those with these numbers, in that order; itself where they are all, in its own."""
        if np.array_equal(indices, np.arange(len(self))):
            return self
        names = None if self.names is None else self.names[indices]
        return Samples(memmap.take(self.inputs, indices), self.labels[indices], self.class_names, names, self.resize)


class Skipped(NamedTuple):
    """A file that is no sample, since it can't be read."""

    file: str
    sha256: str
    reason: str


class Parts(NamedTuple):
    """A data set as it comes: with parts of its own for validation and test, or without."""

    train: Samples
    validation: Samples | None = None
    test: Samples | None = None
    skipped: tuple[Skipped, ...] = ()
