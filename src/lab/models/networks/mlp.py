"""Linear layers, with or without an activation: without, they equal one layer (tutorial 001)."""

import math
from itertools import pairwise
from typing import Annotated

from pydantic import Field
from torch import nn

from lab.models import layers
from lab.models.layers import Activation, Built, Shape, Width


def build(
    shape: Shape,
    n_classes: int,
    *,
    hidden: Annotated[list[Width], Field(min_length=1, max_length=100)],
    activation: Activation,
) -> Built:
    """Shapes for circles: (batch, 2) -> (batch, 8) -> (batch, 4) -> (batch, 2)."""
    widths = [math.prod(shape), *hidden]
    backbone = nn.Sequential(nn.Flatten())
    for n_in, n_out in pairwise(widths):
        backbone.append(layers.Linear(n_in, n_out))
        backbone.append(layers.activation(activation, inplace=False))
    return backbone, layers.Linear(widths[-1], n_classes)
