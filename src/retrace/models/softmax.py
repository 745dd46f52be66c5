"""Softmax regression: one linear layer on the pixels (seeds/004)."""

import math

from torch import nn


def build(image: tuple[int, int, int], n_classes: int) -> tuple[nn.Module, nn.Module]:
    """(batch, *image) -> (batch, pixels) -> (batch, n_classes)."""
    return nn.Flatten(), nn.Linear(math.prod(image), n_classes)
