"""Operations drawn at random from a list, and a whole recipe for photos."""

from collections.abc import Sequence
from typing import Annotated, NamedTuple

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from lab.data import batches
from lab.data.batches import Draws
from lab.shapes import Images
from lab.training.augmentations import color
from lab.training.augmentations.color import Change, by_image
from lab.training.augmentations.crops import (
    Probability,
    Shares,
    Size,
    random_erasing,
    random_resized_crop,
)

LEVELS = 30  # magnitudes are level / LEVELS of the strongest one
RATIO = [3 / 4, 4 / 3]  # of a crop's width to its height
ERASED = {"scale": [0.02, 0.33], "ratio": [0.3, 3.3]}  # as in the paper


class Operation(NamedTuple):
    """An operation, and the values that it gets: from `weakest` on, to `strongest`.

    Where it is `signed`, the difference is subtracted from the weakest in half of the images.
    """

    change: Change
    weakest: float
    strongest: float
    signed: bool

    def values(self, levels: np.ndarray, signs: np.ndarray) -> np.ndarray:
        """Return the values for levels in 0..1 and signs of -1 or 1."""
        difference = (self.strongest - self.weakest) * levels
        return self.weakest + difference * (signs if self.signed else 1)


def rand_augment(
    images: Images,
    random: Draws,
    seen: Size,
    *,
    num_ops: Annotated[int, Field(ge=1, le=14)],
    magnitude: Annotated[int, Field(ge=0, le=LEVELS)],
) -> Tensor:
    """Apply random operations of one magnitude, 0..30 (Cubuk et al. 2019, arXiv:1909.13719).

    The operations are torchvision's.
    """
    images = batches.center(images, seen)
    for _ in range(num_ops):
        numbers = random.numbers(2)
        levels = np.full(len(images), magnitude / LEVELS)
        images = _applied(images, RAND, numbers[:, 0], levels, numbers[:, 1])
    return images


def trivial_augment(images: Images, random: Draws, seen: Size) -> Tensor:
    """Apply one operation of random magnitude (Müller and Hutter 2021, arXiv:2103.10158).

    The operations are those of its wide search space, as in torchvision.
    """
    images = batches.center(images, seen)
    numbers = random.numbers(3)
    levels = np.floor(numbers[:, 1] * (LEVELS + 1)) / LEVELS
    return _applied(images, WIDE, numbers[:, 0], levels, numbers[:, 2])


def photo(
    images: Images,
    random: Draws,
    seen: Size,
    *,
    scale: Shares,
    flip: bool,
    erasing: Probability,
) -> Tensor:
    """Apply random_resized_crop, trivial_augment and random_erasing.

    The augmentations of torchvision's reference recipe (Vryniotis 2021, "How to train
    state-of-the-art models using TorchVision's latest primitives").
    """
    cropped = random_resized_crop(images, random, seen, scale=scale, ratio=RATIO, flip=flip)
    changed = trivial_augment(cropped, random, seen)
    if not erasing:
        return changed
    return random_erasing(changed, random, seen, probability=erasing, **ERASED)


def _applied(
    images: Images,
    operations: Sequence[Operation],
    choices: np.ndarray,
    levels: np.ndarray,
    signs: np.ndarray,
) -> Tensor:
    """Apply an operation to each image; choices and signs are uniform numbers in 0..1."""
    chosen = (choices * len(operations)).astype(int)
    signs = np.where(signs < 0.5, -1, 1)
    values = np.zeros(len(images))
    for number, operation in enumerate(operations):
        own = chosen == number
        values[own] = operation.values(levels[own], signs[own])
    changes = [operation.change for operation in operations]
    return color.grouped(images, changes, chosen, values)


def identity(images: Images, _: np.ndarray) -> Tensor:
    return images


def shear_x(images: Images, slopes: np.ndarray) -> Tensor:
    return _moved(images, x=(1.0, slopes, 0.0))


def shear_y(images: Images, slopes: np.ndarray) -> Tensor:
    return _moved(images, y=(slopes, 1.0, 0.0))


def translate_x(images: Images, pixels: np.ndarray) -> Tensor:
    return _moved(images, x=(1.0, 0.0, -np.trunc(pixels)))


def translate_y(images: Images, pixels: np.ndarray) -> Tensor:
    return _moved(images, y=(0.0, 1.0, -np.trunc(pixels)))


def translate_x_share(images: Images, shares: np.ndarray) -> Tensor:
    return translate_x(images, shares * images.shape[3])


def translate_y_share(images: Images, shares: np.ndarray) -> Tensor:
    return translate_y(images, shares * images.shape[2])


def rotate(images: Images, degrees: np.ndarray) -> Tensor:
    """Rotate around the center, counterclockwise."""
    height, width = images.shape[2:]
    cos = np.cos(np.deg2rad(degrees))
    sin = np.sin(np.deg2rad(degrees))
    left = width / 2
    top = height / 2
    return _moved(
        images,
        x=(cos, -sin, left - cos * left + sin * top),
        y=(sin, cos, top - sin * left - cos * top),
    )


Coefficients = tuple[np.ndarray | float, np.ndarray | float, np.ndarray | float]


def _moved(
    images: Images, x: Coefficients = (1.0, 0.0, 0.0), y: Coefficients = (0.0, 1.0, 0.0)
) -> Tensor:
    """Return for each pixel the one at a linear function of its place; black is outside.

    A function's coefficients are those of x, of y and of 1, in pixels from the top left corner.
    """
    height, width = images.shape[2:]
    columns = torch.arange(width, device=images.device) + 0.5
    rows = torch.arange(height, device=images.device)[:, None] + 0.5
    column, row = (
        (_of(a, images) * columns + _of(b, images) * rows + _of(c, images)).floor()
        for a, b, c in (x, y)
    )
    outside = (column < 0) | (column >= width) | (row < 0) | (row >= height)
    index = (row.clamp(0, height - 1) * width + column.clamp(0, width - 1)).long()
    index = index.flatten(1)[:, None].expand(-1, images.shape[1], -1)
    moved = images.flatten(2).gather(2, index).view(images.shape)
    return moved.masked_fill(outside[:, None], 0)


def _of(coefficient: np.ndarray | float, images: Images) -> Tensor:
    """Return a coefficient for each image, of shape (n, 1, 1)."""
    return by_image(np.broadcast_to(coefficient, len(images)), images)[:, 0]


def _operations(
    *,
    shear: float,
    translations: tuple[Operation, Operation],
    degrees: float,
    factor: float,
    bits: float,
) -> tuple[Operation, ...]:
    """Return the 14 operations; the arguments are the strongest values."""
    return (
        Operation(identity, 0.0, 0.0, signed=False),
        Operation(shear_x, 0.0, shear, signed=True),
        Operation(shear_y, 0.0, shear, signed=True),
        *translations,
        Operation(rotate, 0.0, degrees, signed=True),
        Operation(color.adjust_brightness, 1.0, 1.0 + factor, signed=True),
        Operation(color.adjust_saturation, 1.0, 1.0 + factor, signed=True),
        Operation(color.adjust_contrast, 1.0, 1.0 + factor, signed=True),
        Operation(color.adjust_sharpness, 1.0, 1.0 + factor, signed=True),
        Operation(color.posterize, 8.0, bits, signed=False),
        Operation(color.solarize, 255.0, 0.0, signed=False),
        Operation(color.autocontrast, 0.0, 0.0, signed=False),
        Operation(color.equalize, 0.0, 0.0, signed=False),
    )


RAND = _operations(
    shear=0.3,
    translations=(
        Operation(translate_x_share, 0.0, 150 / 331, signed=True),
        Operation(translate_y_share, 0.0, 150 / 331, signed=True),
    ),
    degrees=30.0,
    factor=0.9,
    bits=4.0,
)
WIDE = _operations(
    shear=0.99,
    translations=(
        Operation(translate_x, 0.0, 32.0, signed=True),
        Operation(translate_y, 0.0, 32.0, signed=True),
    ),
    degrees=135.0,
    factor=0.99,
    bits=2.0,
)
