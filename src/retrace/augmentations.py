"""How a batch of training images is changed at random, by the name in params.yaml: whole-batch tensor code.

To add one: a function here that takes the batch, a generator and, as keyword-only arguments, its settings, and
returns images of the same shape; a line in the table; its settings under `augmentations:`. Draws come from the
generator alone, which lives on the CPU.
"""

from collections.abc import Callable
from typing import Annotated

import torch
import torch.nn.functional as F  # noqa: N812 - the field's own name for it
from pydantic import Field

from retrace.shapes import Images, Inputs

Pixels = Annotated[int, Field(ge=0, le=1024)]
Padding = Annotated[list[Pixels], Field(min_length=4, max_length=4)]
Side = Annotated[int, Field(ge=1, le=1024)]


def none(inputs: Inputs, random: torch.Generator) -> Inputs:  # noqa: ARG001 - an augmentation takes one
    return inputs


def crop_flip(images: Images, random: torch.Generator, *, padding: Padding, flip: bool) -> Images:
    """A random window of the old size in the image with a black margin (seeds/002, 12.3: RandomCrop and flip)."""
    n, channels, height, width = images.shape
    left, top, right, bottom = padding
    # A pixel's channels side by side: the result is channels last, as convolutions want it.
    padded = F.pad(images, (left, right, top, bottom)).permute(0, 2, 3, 1).contiguous()
    rows = torch.randint(top + bottom + 1, (n, 1), generator=random) + torch.arange(height)
    columns = torch.randint(left + right + 1, (n, 1), generator=random) + torch.arange(width)
    if flip:
        columns = torch.where(torch.rand(n, 1, generator=random) < 0.5, columns.flip(1), columns)
    _, tall, wide, _ = padded.shape
    places = (torch.arange(n)[:, None, None] * tall + rows[:, :, None]) * wide + columns[:, None, :]
    pixels = padded.view(-1, channels).index_select(0, places.view(-1).to(images.device))
    return pixels.view(n, height, width, channels).permute(0, 3, 1, 2)


def shift(images: Images, random: torch.Generator, *, pixels: Pixels) -> Images:
    """Moved by up to `pixels` in each direction; what comes in is black."""
    return crop_flip(images, random, padding=[pixels] * 4, flip=False)


def cutout(images: Images, random: torch.Generator, *, size: Side) -> Images:
    """A square is blanked, its middle anywhere in the image (DeVries and Taylor 2017, arXiv:1708.04552)."""
    n, _, *sides = images.shape
    starts = [torch.randint(side, (n, 1), generator=random) - size // 2 for side in sides]
    rows, columns = (
        (torch.arange(side) >= start) & (torch.arange(side) < start + size)
        for side, start in zip(sides, starts, strict=True)
    )
    square = (rows[:, None, :, None] & columns[:, None, None, :]).to(images.device)
    return images.masked_fill(square, 0)


def crop_flip_cutout(images: Images, random: torch.Generator, *, padding: Padding, flip: bool, size: Side) -> Images:
    """Both, one after the other."""
    return cutout(crop_flip(images, random, padding=padding, flip=flip), random, size=size)


AUGMENTATIONS: dict[str, Callable[..., Inputs]] = {
    "none": none,
    "crop_flip": crop_flip,
    "shift": shift,
    "cutout": cutout,
    "crop_flip_cutout": crop_flip_cutout,
}
