"""Labeled inputs: a data set, or one of its splits."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from lab.data import memmap


@dataclass(frozen=True)
class Samples:
    """Inputs with their labels.

    `inputs` are images (n, channels, height, width) uint8, or features (n, d) float32. `labels`
    (n,) int64 are indices of `class_names`. `names` has the n paths if each sample is a file.
    `resize` is the length in pixels to which an image's shorter edge was scaled before cropping.
    """

    inputs: np.ndarray  # of a large split that was loaded, memmap.Shards
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
        """Return the sample's file, or its number, from 0."""
        return str(index if self.names is None else self.names[index])

    def label(self, index: int) -> str:
        """Return the name of the sample's class."""
        return self.class_names[self.labels[index]]

    def take(self, indices: np.ndarray) -> "Samples":
        """Return the samples at `indices`, or `self` if those are all samples in order."""
        if np.array_equal(indices, np.arange(len(self))):
            return self
        names = None if self.names is None else self.names[indices]
        inputs = memmap.take(self.inputs, indices)
        return Samples(inputs, self.labels[indices], self.class_names, names, self.resize)


class Skipped(NamedTuple):
    """A file that cannot be read, and so was left out."""

    file: str
    sha256: str
    reason: str

    def __str__(self) -> str:
        """Name the file and the reason."""
        return f"{self.file!r} ({self.reason})"


class Splits(NamedTuple):
    """A data set as published: with or without its own validation and test split."""

    train: Samples
    validation: Samples | None = None
    test: Samples | None = None
    skipped: tuple[Skipped, ...] = ()
