"""Linear layers, with an activation between them or without: then they are together one layer (seeds/001)."""

import math
from itertools import pairwise
from typing import Annotated

from pydantic import Field
from torch import nn

from retrace import layers
from retrace.layers import Activation, Built, Shape, Width


def build(
    shape: Shape,
    n_classes: int,
    *,
    hidden: Annotated[list[Width], Field(min_length=1, max_length=100)],
    activation: Activation,
) -> Built:
    """The circles' (batch, 2) -> (batch, 8) -> (batch, 4) -> (batch, 2)."""
    widths = [math.prod(shape), *hidden]
    trunk = nn.Sequential(nn.Flatten())
    for n_in, n_out in pairwise(widths):
        trunk.append(layers.Linear(n_in, n_out)).append(layers.activation(activation, inplace=False))
    return trunk, layers.Linear(widths[-1], n_classes)
