"""Labelled images: what a data set is read into, and what a part of it is."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Samples:
    """`images` of shape (n, channels, height, width) uint8; `labels` of shape (n,) int64, indices of `class_names`."""

    images: np.ndarray
    labels: np.ndarray
    class_names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: np.ndarray) -> "Samples":
        return Samples(self.images[indices], self.labels[indices], self.class_names)
