"""Augmentations of a batch, against the same for one image at a time."""

import pytest
import torch

from lab.data.batches import Draws
from lab.shapes import Images
from lab.training.augmentations import AUGMENTATIONS
from lab.training.augmentations.crops import crop_flip, cutout, shift
from retrace.pipeline import params_yaml

N_IMAGES = 200
SIZE = (7, 9)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def draws(seed: int = 0) -> Draws:
    return Draws(seeded(seed), N_IMAGES, slice(None))


@pytest.fixture
def images() -> Images:
    """200 images of 3 channels, 7 high and 9 wide, without a black pixel."""
    return torch.randint(1, 256, (N_IMAGES, 3, *SIZE), dtype=torch.uint8, generator=seeded())


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_images_have_size_and_are_seeded(
    values: params_yaml.Values, images: Images, name: str
) -> None:
    augment = AUGMENTATIONS[name]
    settings = values["augmentations"][name]
    first, second, other = (augment(images, draws(seed), (5, 7), **settings) for seed in (1, 1, 2))
    size = images.shape[2:] if name == "none" else (5, 7)
    assert (first.shape, first.dtype) == ((N_IMAGES, 3, *size), images.dtype)
    assert torch.equal(first, second)
    assert torch.equal(first, other) == (name == "none")


def windows(image: torch.Tensor, padding: list[int]) -> list[torch.Tensor]:
    """Return all windows of the old size in the padded image, by row, then by column."""
    left, top, right, bottom = padding
    _, height, width = image.shape
    padded = torch.zeros(3, height + top + bottom, width + left + right, dtype=torch.uint8)
    padded[:, top : top + height, left : left + width] = image
    return [
        padded[:, y : y + height, x : x + width]
        for y in range(top + bottom + 1)
        for x in range(left + right + 1)
    ]


@pytest.mark.parametrize("padding", [[0, 2, 3, 4], [0, 0, 0, 0], [1, 0, 0, 0]])
@pytest.mark.parametrize("flip", [True, False])
def test_crop_flip_draws_every_window(images: Images, padding: list[int], flip: bool) -> None:
    seen = set()
    same = images[:1].expand(N_IMAGES, -1, -1, -1)
    possible = windows(images[0], padding)
    possible += [window.flip(2) for window in possible] if flip else []
    for image in crop_flip(same, draws(), SIZE, padding=padding, flip=flip):
        (index,) = [i for i, window in enumerate(possible) if torch.equal(window, image)]
        seen.add(index)
    assert len(seen) > 0.9 * len(possible)


def test_crop_flip_keeps_the_order(images: Images) -> None:
    padding = [1, 1, 1, 1]
    cropped = crop_flip(images, draws(), SIZE, padding=padding, flip=False)
    for image, crop in zip(images, cropped, strict=True):
        assert any(torch.equal(window, crop) for window in windows(image, padding))


def test_crop_flip_crops_larger_images(images: Images) -> None:
    cropped = crop_flip(images, draws(), (5, 7), padding=[0, 0, 0, 0], flip=False)
    seen = set()
    for image, crop in zip(images, cropped, strict=True):
        places = [(y, x) for y in range(3) for x in range(3)]
        (place,) = [(y, x) for y, x in places if torch.equal(image[:, y : y + 5, x : x + 7], crop)]
        seen.add(place)
    assert len(seen) == 9


def test_shift_by_zero_changes_nothing(images: Images) -> None:
    assert torch.equal(shift(images, draws(), SIZE, pixels=0), images)


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_cutout_blanks_one_square(images: Images, size: int) -> None:
    areas = set()
    for image in cutout(images, draws(), SIZE, size=size):
        blank = (image == 0).all(dim=0)
        assert torch.equal(blank, (image == 0).any(dim=0))
        rows = blank.any(dim=1).sum().item()
        columns = blank.any(dim=0).sum().item()
        assert blank.sum() == rows * columns
        areas.add((rows, columns))
    assert max(areas) == (size, size)
