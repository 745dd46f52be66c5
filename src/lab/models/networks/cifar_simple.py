"""Three convolutions with pooling and two linear layers (tutorial 002, section 9.2).

It is the tutorial's first network for CIFAR-10, where it has no activation: only the pooling is
nonlinear.
"""

from torch import nn

from lab.models import layers
from lab.models.layers import Activation, Built, Shape


def build(shape: Shape, n_classes: int, *, activation: Activation) -> Built:
    """Shapes for CIFAR-10: (batch, 3, 32, 32) -> (batch, 32, 16, 16) -> (batch, 32, 8, 8) ->
    (batch, 64, 4, 4) -> (batch, 64).
    """
    depth, height, width = shape
    backbone = nn.Sequential()
    for n_in, n_out in ((depth, 32), (32, 32), (32, 64)):
        backbone.append(nn.Conv2d(n_in, n_out, 5, padding=2)).append(layers.MaxPool()).append(
            layers.activation(activation)
        )
    backbone.append(nn.Flatten()).append(nn.Linear(64 * layers.n_pixels(height, width, 3), 64))
    return backbone.append(layers.activation(activation)), nn.Linear(64, n_classes)
