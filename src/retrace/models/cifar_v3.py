"""The network tuned on CIFAR-10 (seeds/002, 12.3), after VGG: pairs of 3x3 convolutions, batch norm after ReLU."""

from itertools import pairwise
from typing import Annotated

from pydantic import Field
from torch import nn

from retrace.layers import Built, MaxPool, Rate, Shape, Width, n_pixels


def build(
    shape: Shape,
    n_classes: int,
    *,
    channels: Annotated[list[Width], Field(min_length=1, max_length=10)],
    hidden: Width,
    dropout: Rate,
) -> Built:
    """CIFAR's (batch, 3, 32, 32) -> (batch, 32, 16, 16) -> (batch, 64, 8, 8) -> (batch, 128, 4, 4) -> (batch, 64)."""
    depth, height, width = shape
    trunk = nn.Sequential()
    for n_in, n_out in pairwise([depth, *channels]):
        for n in (n_in, n_out):
            trunk.append(nn.Conv2d(n, n_out, 3, padding=1)).append(nn.ReLU(inplace=True)).append(nn.BatchNorm2d(n_out))
        trunk.append(MaxPool())
    n_last = channels[-1] * n_pixels(height, width, len(channels))
    for layer in (nn.Flatten(), nn.Dropout(dropout), nn.Linear(n_last, hidden), nn.ReLU(inplace=True)):
        trunk.append(layer)
    return trunk.append(nn.Dropout(dropout)), nn.Linear(hidden, n_classes)
