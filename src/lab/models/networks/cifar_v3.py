"""The network tuned on CIFAR-10 (tutorial 002, section 12.3).

Like VGG, it has pairs of 3x3 convolutions; batch norm comes after ReLU.
"""

from itertools import pairwise
from typing import Annotated

from pydantic import Field
from torch import nn

from lab.models.layers import Built, MaxPool, Rate, Shape, Width, n_pixels


def build(
    shape: Shape,
    n_classes: int,
    *,
    channels: Annotated[list[Width], Field(min_length=1, max_length=10)],
    hidden: Width,
    dropout: Rate,
) -> Built:
    """Shapes for CIFAR-10: (batch, 3, 32, 32) -> (batch, 32, 16, 16) -> (batch, 64, 8, 8) ->
    (batch, 128, 4, 4) -> (batch, 64).
    """
    depth, height, width = shape
    backbone = nn.Sequential()
    for n_in, n_out in pairwise([depth, *channels]):
        for n in (n_in, n_out):
            backbone.append(nn.Conv2d(n, n_out, 3, padding=1))
            backbone.append(nn.ReLU(inplace=True))
            backbone.append(nn.BatchNorm2d(n_out))
        backbone.append(MaxPool())
    n_last = channels[-1] * n_pixels(height, width, len(channels))
    backbone.append(nn.Flatten())
    backbone.append(nn.Dropout(dropout))
    backbone.append(nn.Linear(n_last, hidden))
    backbone.append(nn.ReLU(inplace=True))
    return backbone.append(nn.Dropout(dropout)), nn.Linear(hidden, n_classes)
