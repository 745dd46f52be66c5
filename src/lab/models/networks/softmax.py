"""Softmax regression: one linear layer on the inputs (tutorial 004)."""

import math

from torch import nn

from lab.models.layers import Built, Shape


def build(shape: Shape, n_classes: int) -> Built:
    """Shapes: (batch, *shape) -> (batch, pixels) -> (batch, n_classes)."""
    return nn.Flatten(), nn.Linear(math.prod(shape), n_classes)
