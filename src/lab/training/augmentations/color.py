"""Changes of color, each with one number for each image, as in torchvision.transforms.v2.

Sums are of whole numbers, so that an image gets the same pixels in any batch.
"""

from collections.abc import Callable, Sequence
from typing import Annotated

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from lab.data import batches
from lab.data.batches import Draws
from lab.shapes import Images

# Changes images, with a number for each of them.
Change = Callable[[Images, np.ndarray], Tensor]
Strength = Annotated[float, Field(ge=0, le=1)]
Turn = Annotated[float, Field(ge=0, le=0.5)]

LUMA = (0.2989, 0.587, 0.114)  # of red, green and blue, as in torchvision


def by_image(values: np.ndarray, images: Tensor) -> Tensor:
    """Return a number for each image, in float32, on their device."""
    numbers = torch.tensor(values.tolist(), dtype=torch.float32).view(-1, 1, 1, 1)
    return numbers.to(images.device, non_blocking=True)


def grouped(
    images: Images, changes: Sequence[Change], chosen: np.ndarray, values: np.ndarray
) -> Tensor:
    """Apply to each image the change whose number is in `chosen`, with its value."""
    result = images.clone()
    for number in np.unique(chosen):
        rows = np.flatnonzero(chosen == number)
        indices = torch.tensor(rows.tolist()).to(images.device, non_blocking=True)
        changed = changes[number](images.index_select(0, indices), values[rows])
        result.index_copy_(0, indices, changed)
    return result


def color_jitter(
    images: Images,
    random: Draws,
    seen: tuple[int, ...],
    *,
    brightness: Strength,
    contrast: Strength,
    saturation: Strength,
    hue: Turn,
) -> Tensor:
    """Change brightness, contrast, saturation and hue, in random order, as torchvision does.

    Factors are uniform in 1 - strength..1 + strength; the hue is turned by -hue..hue of a circle.
    """
    images = batches.center(images, seen)
    changes = (adjust_brightness, adjust_contrast, adjust_saturation, adjust_hue)
    numbers = random.numbers(2 * len(changes))
    strengths = np.array([brightness, contrast, saturation, hue])
    values = np.array([1, 1, 1, 0]) + strengths * (2 * numbers[:, : len(changes)] - 1)
    order = numbers[:, len(changes) :].argsort(axis=1)
    image = np.arange(len(images))
    for chosen in order.T:
        images = grouped(images, changes, chosen, values[image, chosen])
    return images


def adjust_brightness(images: Images, factors: np.ndarray) -> Tensor:
    """Multiply all values."""
    return _bytes(images * by_image(factors, images))


def adjust_contrast(images: Images, factors: np.ndarray) -> Tensor:
    """Move values away from the mean of the image's gray values, or toward it."""
    gray = _gray(images)
    mean = gray.sum((1, 2, 3), keepdim=True, dtype=torch.float64) / gray[0].numel()
    return _blended(images, mean.float(), factors)


def adjust_saturation(images: Images, factors: np.ndarray) -> Tensor:
    """Move colors away from gray, or toward it."""
    return _blended(images, _gray(images), factors) if images.shape[1] == 3 else images


def adjust_sharpness(images: Images, factors: np.ndarray) -> Tensor:
    """Move values away from those of a smoothed image, or toward them; the border stays."""
    if min(images.shape[2:]) < 3:
        return images
    values = images.float()
    rows = values[:, :, :-2] + values[:, :, 1:-1] + values[:, :, 2:]
    around = rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:]
    inner = values[:, :, 1:-1, 1:-1]
    smooth = ((around + 4 * inner) / 13).round()
    result = images.clone()
    result[:, :, 1:-1, 1:-1] = _blended(inner, smooth, factors)
    return result


def adjust_hue(images: Images, turns: np.ndarray) -> Tensor:
    """Turn the hue by a fraction of a circle."""
    if images.shape[1] != 3:
        return images
    red, green, blue = (images / 255).unbind(1)
    value = torch.maximum(torch.maximum(red, green), blue)
    chroma = value - torch.minimum(torch.minimum(red, green), blue)
    divisor = torch.where(chroma > 0, chroma, 1)
    hue = torch.where(value == blue, (red - green) / divisor + 4, (blue - red) / divisor + 2)
    hue = torch.where(value == green, (blue - red) / divisor + 2, hue)
    hue = torch.where(value == red, (green - blue) / divisor, hue)  # in sixths of a circle
    turned = hue[:, None] + 6 * by_image(turns, images)
    sectors = (5 - 2 * torch.arange(3, device=images.device)).view(1, 3, 1, 1)
    distance = (turned + sectors).remainder(6)
    share = torch.minimum(distance, 4 - distance).clamp(0, 1)
    return _bytes(((value[:, None] - chroma[:, None] * share) * 255).round())


def posterize(images: Images, bits: np.ndarray) -> Tensor:
    """Keep the highest bits of all values; numbers of bits are rounded."""
    masks = torch.tensor((256 - 2 ** (8 - np.rint(bits).astype(int))).tolist(), dtype=torch.uint8)
    return images & masks.view(-1, 1, 1, 1).to(images.device, non_blocking=True)


def solarize(images: Images, thresholds: np.ndarray) -> Tensor:
    """Invert the values that are at least the threshold."""
    return torch.where(images >= by_image(thresholds, images), 255 - images, images)


def autocontrast(images: Images, _: np.ndarray) -> Tensor:
    """Stretch the values of each channel to 0..255."""
    lowest, highest = (extreme((2, 3), keepdim=True) for extreme in (images.amin, images.amax))
    spread = (highest - lowest).float()
    stretched = (images - lowest).float() * (255 / spread.clamp(min=1))
    return torch.where(spread > 0, _bytes(stretched), images)


def equalize(images: Images, _: np.ndarray) -> Tensor:
    """Spread the values of each channel evenly, with Pillow's rounding."""
    values = images.flatten(2).long()
    ones = torch.ones_like(values, dtype=torch.int32)
    counts = torch.zeros(*values.shape[:2], 256, dtype=torch.int32, device=images.device)
    counts = counts.scatter_add(2, values, ones)
    earlier = torch.ones(256, 256, dtype=torch.int32, device=images.device).tril(-1)
    below = (counts[:, :, None] * earlier).sum(3)  # values lower than each of the 256
    n_highest = counts.gather(2, values.amax(2, keepdim=True))
    step = (values.shape[2] - n_highest) // 255
    table = ((below + step // 2) // step.clamp(min=1)).clamp(0, 255)
    equalized = table.gather(2, values).to(torch.uint8)
    return torch.where(step > 0, equalized, images.flatten(2)).view(images.shape)


def _gray(images: Images) -> Tensor:
    """Return the gray values, whole numbers in float32, of shape (n, 1, height, width)."""
    if images.shape[1] != 3:
        return images[:, :1].float()
    red, green, blue = images.split(1, dim=1)
    return (red * LUMA[0] + green * LUMA[1] + blue * LUMA[2]).floor()


def _blended(images: Tensor, others: Tensor, factors: np.ndarray) -> Tensor:
    """Return factor * images + (1 - factor) * others."""
    factor = by_image(factors, images)
    return _bytes(images * factor + others * (1 - factor))


def _bytes(values: Tensor) -> Tensor:
    """Cut values to 0..255 and drop their fractions, as torchvision does."""
    return values.clamp(0, 255).to(torch.uint8)
