"""Labelled inputs: what a data set is read into, and what a part of it is."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np


@dataclass(frozen=True)
class Samples:
    """`inputs` are images, of shape (n, channels, height, width) uint8, or features, of shape (n, d) float32;
    `labels` of shape (n,) int64 are indices of `class_names`.
    """

    inputs: np.ndarray
    labels: np.ndarray
    class_names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def are_images(self) -> bool:
        return self.inputs.ndim == 4

    def take(self, indices: np.ndarray) -> "Samples":
        return Samples(self.inputs[indices], self.labels[indices], self.class_names)


class Parts(NamedTuple):
    """A data set as it comes: with parts of its own for validation and test, or without."""

    train: Samples
    validation: Samples | None = None
    test: Samples | None = None
