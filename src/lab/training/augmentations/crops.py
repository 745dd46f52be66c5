"""Augmentations that move, resize or erase parts of images, which keep their colors."""

from typing import Annotated

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from pydantic import AfterValidator, Field
from torch import Tensor

from lab.data import batches
from lab.data.batches import Draws
from lab.shapes import Images, Inputs

Pixels = Annotated[int, Field(ge=0, le=1024)]
Padding = Annotated[list[Pixels], Field(min_length=4, max_length=4)]
Side = Annotated[int, Field(ge=1, le=1024)]
Probability = Annotated[float, Field(ge=0, le=1)]
Size = tuple[int, ...]  # height and width

ATTEMPTS = 10  # to draw a box that fits into the image, as in torchvision
GRAY = 128  # near the mean of photos, to which torchvision and timm erase


def _ordered(interval: list[float]) -> list[float]:
    if interval[0] > interval[1]:
        raise ValueError("should begin with the smaller number")
    return interval


Shares = Annotated[
    list[Annotated[float, Field(gt=0, le=1)]],
    Field(min_length=2, max_length=2),
    AfterValidator(_ordered),
]
Ratios = Annotated[
    list[Annotated[float, Field(gt=0, le=100)]],
    Field(min_length=2, max_length=2),
    AfterValidator(_ordered),
]


def none(inputs: Inputs, random: Draws, seen: Size) -> Inputs:  # noqa: ARG001 - as the others
    return inputs


def crop_flip(images: Images, random: Draws, seen: Size, *, padding: Padding, flip: bool) -> Tensor:
    """Pad with black, crop at random to what the network sees, and flip half of the images.

    As in tutorial 002, section 12.3.
    """
    n, channels, height, width = images.shape
    left, top, right, bottom = padding
    # Channels last: convolutions are fastest with a pixel's channels next to each other.
    padded = F.pad(images, (left, right, top, bottom)).permute(0, 2, 3, 1).contiguous()
    first = random.below(height + top + bottom - seen[0] + 1, images.device)
    rows = first + torch.arange(seen[0], device=images.device)
    first = random.below(width + left + right - seen[1] + 1, images.device)
    columns = first + torch.arange(seen[1], device=images.device)
    if flip:
        mirrored = random.uniform(images.device) < 0.5
        columns = torch.where(mirrored, columns.flip(1), columns)
    _, tall, wide, _ = padded.shape
    image = torch.arange(n, device=images.device)[:, None, None]
    indices = (image * tall + rows[:, :, None]) * wide + columns[:, None, :]
    pixels = padded.view(-1, channels).index_select(0, indices.view(-1))
    return pixels.view(n, *seen, channels).permute(0, 3, 1, 2)


def shift(images: Images, random: Draws, seen: Size, *, pixels: Pixels) -> Tensor:
    """Shift by up to `pixels` in each direction, and fill with black."""
    images = batches.center(images, seen)
    return crop_flip(images, random, seen, padding=[pixels] * 4, flip=False)


def cutout(images: Images, random: Draws, seen: Size, *, size: Side) -> Tensor:
    """Blank a square centered anywhere in the image (DeVries and Taylor 2017, arXiv:1708.04552)."""
    images = batches.center(images, seen)
    positions = [torch.arange(side, device=images.device) for side in seen]
    starts = [random.below(side, images.device) - size // 2 for side in seen]
    rows, columns = (
        (position >= start) & (position < start + size)
        for position, start in zip(positions, starts, strict=True)
    )
    return images.masked_fill(rows[:, None, :, None] & columns[:, None, None, :], 0)


def crop_flip_cutout(
    images: Images, random: Draws, seen: Size, *, padding: Padding, flip: bool, size: Side
) -> Tensor:
    """Apply crop_flip, then cutout."""
    cropped = crop_flip(images, random, seen, padding=padding, flip=flip)
    return cutout(cropped, random, seen, size=size)


def random_resized_crop(
    images: Images, random: Draws, seen: Size, *, scale: Shares, ratio: Ratios, flip: bool
) -> Tensor:
    """Resize a random rectangle to what the network sees (Szegedy et al. 2014, arXiv:1409.4842).

    The rectangle is drawn as by torchvision: its share of the image's area is uniform in `scale`,
    the logarithm of its width to height uniform in that of `ratio`. Half of the images are
    mirrored if `flip`. Bilinear, with antialiasing.
    """
    numbers = random.numbers(2 * ATTEMPTS + 3)
    mirrored = (numbers[:, -1] < 0.5) & flip
    boxes, fits = _boxes(numbers, images.shape[2:], scale, ratio)
    boxes[~fits] = _largest_box(images.shape[2:], ratio)
    result = images.new_empty((len(images), images.shape[1], *seen))
    # One at a time: their sizes differ, and each is enough work for a kernel.
    for number, (top, left, height, width) in enumerate(boxes.tolist()):
        part = images[number : number + 1, :, top : top + height, left : left + width]
        part = part.flip(3) if mirrored[number] else part
        result[number] = _resized(part, seen)[0]
    return result


def random_erasing(
    images: Images,
    random: Draws,
    seen: Size,
    *,
    probability: Probability,
    scale: Shares,
    ratio: Ratios,
) -> Tensor:
    """Make a random rectangle gray in some of the images (Zhong et al. 2017, arXiv:1708.04896).

    It is drawn as in `random_resized_crop`; `probability` is that of an image to have one.
    """
    images = batches.center(images, seen)
    numbers = random.numbers(2 * ATTEMPTS + 3)
    boxes, fits = _boxes(numbers, seen, scale, ratio)
    boxes[~fits | (numbers[:, -1] >= probability)] = 0
    edges = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)
    on_device = torch.tensor(edges.tolist()).to(images.device, non_blocking=True)
    firsts, lasts = on_device.split(2, dim=1)
    rows, columns = (
        (position >= firsts[:, axis, None]) & (position < lasts[:, axis, None])
        for axis, position in enumerate(torch.arange(n, device=images.device) for n in seen)
    )
    return images.masked_fill(rows[:, None, :, None] & columns[:, None, None, :], GRAY)


def _boxes(
    numbers: np.ndarray, size: Size, scale: list[float], ratio: list[float]
) -> tuple[np.ndarray, np.ndarray]:
    """Return a box (top, left, height, width) for each image, and which of them fit into it.

    `numbers` are in 0..1, at least 2 * ATTEMPTS + 2 for each image.
    """
    height, width = size
    areas = height * width * (scale[0] + numbers[:, :ATTEMPTS] * (scale[1] - scale[0]))
    low, high = np.log(ratio)
    ratios = np.exp(low + numbers[:, ATTEMPTS : 2 * ATTEMPTS] * (high - low))
    heights = np.rint(np.sqrt(areas / ratios)).astype(int)
    widths = np.rint(np.sqrt(areas * ratios)).astype(int)
    fitting = (heights > 0) & (heights <= height) & (widths > 0) & (widths <= width)
    image = np.arange(len(numbers))
    first = fitting.argmax(axis=1)
    sides = np.stack([heights[image, first], widths[image, first]], axis=1)
    room = np.array([height, width]) - sides + 1
    corners = (numbers[:, 2 * ATTEMPTS : 2 * ATTEMPTS + 2] * room).astype(int)
    return np.concatenate([corners, sides], axis=1), fitting.any(axis=1)


def _largest_box(size: Size, ratio: list[float]) -> list[int]:
    """Return the largest box in the center whose width to height is in `ratio`."""
    height, width = size
    tall = min(height, round(width / ratio[0]))
    wide = min(width, round(height * ratio[1]))
    return [(height - tall) // 2, (width - wide) // 2, tall, wide]


def _resized(images: Images, size: Size) -> Tensor:
    """Resize to whole numbers; a GPU has no kernel for bytes."""
    pixels = images.float() if images.is_cuda else images
    resized = F.interpolate(pixels, size, mode="bilinear", antialias=True)
    return resized.round().clamp(0, 255).to(torch.uint8) if images.is_cuda else resized
