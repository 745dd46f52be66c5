"""Softmax regression from two tensors: normally distributed weights, biases of 0 (tutorial 004)."""

import math
from typing import Annotated

import torch
from pydantic import Field
from torch import nn

from lab.models.layers import Built, Shape
from lab.shapes import Features, Logits


class Affine(nn.Module):
    """W X + b; softmax is part of the loss. The transposed product takes half the time."""

    def __init__(self, n_features: int, n_classes: int, std: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.normal(0.0, std, (n_classes, n_features)))
        self.bias = nn.Parameter(torch.zeros(n_classes))

    def forward(self, features: Features) -> Logits:
        return torch.addmm(self.bias[:, None], self.weight, features.T).T


def build(shape: Shape, n_classes: int, *, std: Annotated[float, Field(gt=0, le=100)]) -> Built:
    """Shapes: (batch, *shape) -> (batch, pixels) -> (batch, n_classes)."""
    return nn.Flatten(), Affine(math.prod(shape), n_classes, std)
