"""Augmentations of a batch of training images, by the name in params.yaml.

To add one: a function here that takes the batch, a source of random numbers and, as keyword-only
arguments, its settings, and returns images of the same shape; a line in the table; its settings
under `augmentations:`. Every random number is from that source, which draws one for each image.
"""

from collections.abc import Callable
from typing import Annotated

import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from pydantic import Field

from lab.data.batches import Draws
from lab.shapes import Images, Inputs

Pixels = Annotated[int, Field(ge=0, le=1024)]
Padding = Annotated[list[Pixels], Field(min_length=4, max_length=4)]
Side = Annotated[int, Field(ge=1, le=1024)]


def none(inputs: Inputs, random: Draws) -> Inputs:  # noqa: ARG001 - an augmentation takes one
    return inputs


def crop_flip(images: Images, random: Draws, *, padding: Padding, flip: bool) -> Images:
    """Pad with black, crop at random to the old size, and flip half of the images.

    As in tutorial 002, section 12.3.
    """
    n, channels, height, width = images.shape
    left, top, right, bottom = padding
    # Channels last: convolutions are fastest with a pixel's channels next to each other.
    padded = F.pad(images, (left, right, top, bottom)).permute(0, 2, 3, 1).contiguous()
    first = random.below(top + bottom + 1, images.device)
    rows = first + torch.arange(height, device=images.device)
    first = random.below(left + right + 1, images.device)
    columns = first + torch.arange(width, device=images.device)
    if flip:
        mirrored = random.uniform(images.device) < 0.5
        columns = torch.where(mirrored, columns.flip(1), columns)
    _, tall, wide, _ = padded.shape
    image = torch.arange(n, device=images.device)[:, None, None]
    indices = (image * tall + rows[:, :, None]) * wide + columns[:, None, :]
    pixels = padded.view(-1, channels).index_select(0, indices.view(-1))
    return pixels.view(n, height, width, channels).permute(0, 3, 1, 2)


def shift(images: Images, random: Draws, *, pixels: Pixels) -> Images:
    """Shift by up to `pixels` in each direction, and fill with black."""
    return crop_flip(images, random, padding=[pixels] * 4, flip=False)


def cutout(images: Images, random: Draws, *, size: Side) -> Images:
    """Blank a square centered anywhere in the image (DeVries and Taylor 2017, arXiv:1708.04552)."""
    sides = images.shape[2:]
    positions = [torch.arange(side, device=images.device) for side in sides]
    starts = [random.below(side, images.device) - size // 2 for side in sides]
    rows, columns = (
        (position >= start) & (position < start + size)
        for position, start in zip(positions, starts, strict=True)
    )
    return images.masked_fill(rows[:, None, :, None] & columns[:, None, None, :], 0)


def crop_flip_cutout(
    images: Images, random: Draws, *, padding: Padding, flip: bool, size: Side
) -> Images:
    """Apply crop_flip, then cutout."""
    return cutout(crop_flip(images, random, padding=padding, flip=flip), random, size=size)


AUGMENTATIONS: dict[str, Callable[..., Inputs]] = {
    "none": none,
    "crop_flip": crop_flip,
    "shift": shift,
    "cutout": cutout,
    "crop_flip_cutout": crop_flip_cutout,
}
