"""Layers that several networks share, and the types of their settings."""

from typing import Annotated, Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

Shape = tuple[int, ...]  # of an input: (channels, height, width), or (features,)
Built = tuple[nn.Module, nn.Module]  # backbone and head
Width = Annotated[int, Field(ge=1, le=65536)]
Rate = Annotated[float, Field(ge=0, lt=1)]
Activation = Literal["relu", "none"]
Vectors = Float[Tensor, "batch _"]
Maps = Float[Tensor, "batch channel height width"]
Pooled = Float[Tensor, "batch channel tall wide"]


def activation(name: Activation, *, inplace: bool = True) -> nn.Module:
    return nn.ReLU(inplace=inplace) if name == "relu" else nn.Identity()


def n_pixels(height: int, width: int, halvings: int) -> int:
    """Count the pixels of a map after poolings by two. Raises ValueError if none is left."""
    left = (height >> halvings) * (width >> halvings)
    if not left:
        raise ValueError(f"the image should have sides of {2**halvings} pixels or more")
    return left


class Linear(nn.Linear):
    """A linear layer whose output is stored feature by feature; equal to nn.Linear within rounding.

    With few features, it and the layers after it take a half to a fifth of the time.
    """

    def forward(self, input: Vectors) -> Vectors:  # noqa: A002 - torch's own name
        return torch.addmm(self.bias[:, None], self.weight, input.T).T


class MaxPool(nn.Module):
    """The same as `nn.MaxPool2d(2)`, in a third of the time on a CPU without gradients.

    That layer also stores the index of each maximum, which only the gradient needs.
    """

    def forward(self, maps: Maps) -> Pooled:
        tall, wide = (side // 2 * 2 for side in maps.shape[2:])
        if maps.device.type != "cpu" or torch.is_grad_enabled() or not tall or not wide:
            return torch.max_pool2d(maps, 2)
        wider = torch.maximum(maps[..., :tall, 0:wide:2], maps[..., :tall, 1:wide:2])
        return torch.maximum(wider[..., 0::2, :], wider[..., 1::2, :])


class AveragePool(nn.Module):
    """`nn.AdaptiveAvgPool2d` as two matrix products, whose gradient is deterministic on a GPU.

    Equal to it within rounding, for every input size.
    """

    def __init__(self, side: tuple[int, int]) -> None:
        super().__init__()
        self.side = side

    def forward(self, maps: Maps) -> Pooled:
        tall, wide = (_shares(n, to, maps) for n, to in zip(maps.shape[2:], self.side, strict=True))
        return tall @ maps @ wide.T


def _shares(n: int, to: int, like: Tensor) -> Tensor:
    """Return the weight of each of `n` pixels in each of `to` means, of shape (to, n)."""
    row = torch.arange(to, device=like.device)[:, None]
    pixel = torch.arange(n, device=like.device)
    first = row * n // to
    last = -(-(row + 1) * n // to)
    inside = (pixel >= first) & (pixel < last)
    return (inside / (last - first)).to(like.dtype)
