"""A network for 94 % on CIFAR-10 in seconds of a GPU: after Jordan 2024 (arXiv:2404.00498), section 3.

What makes it learn in few epochs: the first layer is not learnt but whitens patches; convolutions begin as the
identity; batch norm learns offsets alone, and these fast; logits begin small; and an image is told by several views.
"""

from itertools import pairwise
from typing import Annotated, Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from retrace.layers import Built, Maps, MaxPool, Shape, Width, n_pixels
from retrace.shapes import Features

PATCH = 2  # pixels a side
Patches = Float[Tensor, "batch direction tall wide"]
FLOOR = 5e-4  # added to variances, by whose roots is divided
LOGITS = 1 / 9
MEMORY = 0.4  # the share of the newest batch in running statistics
LOUD = 8.0  # offsets are so many times what is learnt, and so learn 64 times as fast
Views = Literal[1, 2, 6]  # by which an image is told when training is over: itself, its mirror image, both moved twice


class Whitening(nn.Module):
    """Patches by the directions in which those of the images vary, each by one, and by their opposites, so that no
    half is lost to the activation. Before `initialize`, the directions are random.
    """

    def __init__(self, depth: int) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(depth, 2 * depth * PATCH**2, PATCH)
        self.convolution.weight.requires_grad_(False)

    @torch.no_grad()
    def initialize(self, images: Maps) -> None:
        """The directions are those of these images, normalised: eigenvectors of their patches' covariance."""
        patches = nn.functional.unfold(images, PATCH).transpose(1, 2).flatten(0, 1)
        variances, directions = torch.linalg.eigh(patches.T @ patches / len(patches))
        filters = (directions / (variances + FLOOR).sqrt()).T.unflatten(1, (-1, PATCH, PATCH))
        self.convolution.weight.copy_(torch.cat([filters, -filters]))

    def forward(self, images: Maps) -> Patches:
        return self.convolution(images)


class Trunk(nn.Module):
    """Whitened patches, blocks of two convolutions, the largest value of each last map."""

    def __init__(self, depth: int, widths: list[int], *, views: Views) -> None:
        super().__init__()
        self.views = views
        self.whitening = Whitening(depth)
        self.blocks = nn.Sequential(nn.GELU())
        for n_in, n_out in pairwise([2 * depth * PATCH**2, *widths]):
            for layer in (_convolution(n_in, n_out), MaxPool(), Norm(n_out), nn.GELU()):
                self.blocks.append(layer)
            for layer in (_convolution(n_out, n_out), Norm(n_out), nn.GELU()):
                self.blocks.append(layer)

    def forward(self, images: Maps) -> Features:
        if self.training or self.views == 1:
            return self._features(images)
        still = self._with_mirrored(images)
        if self.views == 2:
            return still
        padded = nn.functional.pad(images, (1, 1, 1, 1), mode="reflect")
        moved = self._with_mirrored(padded[..., :-2, :-2]) + self._with_mirrored(padded[..., 2:, 2:])
        return (still + moved / 2) / 2

    def _with_mirrored(self, images: Maps) -> Features:
        return (self._features(images) + self._features(images.flip(3))) / 2

    def _features(self, images: Maps) -> Features:
        return self.blocks(self.whitening(images)).amax(dim=(2, 3)) * LOGITS


def build(
    shape: Shape,
    n_classes: int,
    *,
    widths: Annotated[list[Width], Field(min_length=1, max_length=6)],
    views: Views,
) -> Built:
    """CIFAR's (batch, 3, 32, 32) -> (batch, 24, 31, 31) -> (batch, 64, 15, 15) -> (batch, 256, 7, 7) ->
    (batch, 256, 3, 3) -> (batch, 256).
    """
    depth, height, width = shape
    n_pixels(height - PATCH + 1, width - PATCH + 1, len(widths))
    return Trunk(depth, widths, views=views), nn.Linear(widths[-1], n_classes, bias=False)


def _convolution(n_in: int, n_out: int) -> nn.Module:
    """The first maps come out as they go in."""
    convolution = nn.Conv2d(n_in, n_out, 3, padding=1, bias=False)
    nn.init.dirac_(convolution.weight[:n_in])
    return convolution


class Norm(nn.BatchNorm2d):
    """Batch norm that learns offsets alone."""

    def __init__(self, n: int) -> None:
        super().__init__(n, momentum=MEMORY)
        self.weight.requires_grad_(False)

    def forward(self, input: Maps) -> Maps:  # noqa: A002 - torch's own name
        statistics = self.running_mean, self.running_var
        offsets = self.bias * LOUD
        return nn.functional.batch_norm(input, *statistics, self.weight, offsets, self.training, MEMORY, self.eps)
