"""Augmentations of photos, each against torchvision's for one image at a time."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as tv

from lab.data.batches import Draws
from lab.shapes import Images
from lab.training.augmentations import color, crops, policies

SIZE = (24, 32)
RATIO = [0.75, 1.3333]


def draws(n: int, seed: int = 0) -> Draws:
    return Draws(torch.Generator().manual_seed(seed), n, slice(None))


@pytest.fixture(scope="module")
def photos() -> Images:
    """Return six smooth images of 24 x 32 pixels, one of them gray, one of a single color."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.randint(0, 256, (6, 3, 4, 5), dtype=torch.uint8, generator=generator)
    images = tv.resize(coarse, list(SIZE), antialias=True)
    images[4] = images[4, :1]
    images[5] = torch.tensor([90, 20, 200], dtype=torch.uint8).view(3, 1, 1)
    return images


CHANGES: dict[str, tuple[color.Change, Callable[[Tensor, float], Tensor], list[float]]] = {
    "brightness": (color.adjust_brightness, tv.adjust_brightness, [0.1, 1.0, 1.9]),
    "contrast": (color.adjust_contrast, tv.adjust_contrast, [0.1, 1.0, 1.9]),
    "saturation": (color.adjust_saturation, tv.adjust_saturation, [0.1, 1.0, 1.9]),
    "sharpness": (color.adjust_sharpness, tv.adjust_sharpness, [0.1, 1.0, 1.9]),
    "hue": (color.adjust_hue, tv.adjust_hue, [-0.5, 0.0, 0.2]),
    "posterize": (color.posterize, lambda image, bits: tv.posterize(image, int(bits)), [2, 5, 8]),
    "solarize": (color.solarize, tv.solarize, [0.0, 100.0, 255.0]),
    "autocontrast": (color.autocontrast, lambda image, _: tv.autocontrast(image), [0.0]),
    "equalize": (color.equalize, lambda image, _: tv.equalize(image), [0.0]),
}


@pytest.mark.parametrize("name", CHANGES)
@pytest.mark.parametrize("n_channels", [1, 3])
def test_color_changes_as_in_torchvision(photos: Images, name: str, n_channels: int) -> None:
    photos = photos[:, :n_channels].contiguous()
    change, reference, values = CHANGES[name]
    given = np.resize(np.array(values, dtype=float), len(photos))
    changed = change(photos, given)
    assert changed.dtype == torch.uint8
    for image, result, value in zip(photos, changed, given.tolist(), strict=True):
        difference = result.int() - reference(image, value).int()
        assert difference.abs().max() <= 1  # of 255


MOVES: dict[str, tuple[color.Change, Callable[[Tensor, float], Tensor], list[float]]] = {
    "shear_x": (
        policies.shear_x,
        lambda image, slope: affine(image, shear=[math.degrees(math.atan(slope)), 0.0]),
        [-0.5, 0.3],
    ),
    "shear_y": (
        policies.shear_y,
        lambda image, slope: affine(image, shear=[0.0, math.degrees(math.atan(slope))]),
        [-0.5, 0.3],
    ),
    "translate_x": (
        policies.translate_x,
        lambda image, pixels: affine(image, translate=[int(pixels), 0]),
        [-7.0, 3.0],
    ),
    "translate_y": (
        policies.translate_y,
        lambda image, pixels: affine(image, translate=[0, int(pixels)]),
        [-7.0, 3.0],
    ),
    "rotate": (policies.rotate, tv.rotate, [-90.0, 30.0, 135.0]),
}


def affine(image: Tensor, **changed: Any) -> Tensor:
    still: dict[str, Any] = {"angle": 0.0, "translate": [0, 0], "scale": 1.0, "shear": [0.0, 0.0]}
    return tv.affine(image, **(still | changed), center=[0, 0])


@pytest.mark.parametrize("name", MOVES)
def test_moves_as_in_torchvision(photos: Images, name: str) -> None:
    change, reference, values = MOVES[name]
    given = np.resize(np.array(values), len(photos))
    for image, result, value in zip(photos, change(photos, given), given.tolist(), strict=True):
        same = (result == reference(image, value)).float().mean()
        assert same == 1 if "translate" in name else same > 0.97  # ties between two pixels


def test_crop_is_torchvisions(photos: Images, monkeypatch: pytest.MonkeyPatch) -> None:
    boxes = []
    find = crops._boxes

    def seen(*arguments: Any) -> Any:
        boxes.append(find(*arguments))
        return boxes[0]

    monkeypatch.setattr(crops, "_boxes", seen)
    cropped = crops.random_resized_crop(
        photos, draws(6), (16, 16), scale=[0.2, 0.9], ratio=RATIO, flip=False
    )
    for image, box, result in zip(photos, boxes[0][0].tolist(), cropped, strict=True):
        top, left, height, width = box
        expected = tv.resized_crop(image, top, left, height, width, [16, 16], antialias=True)
        assert torch.equal(result, expected)


def test_boxes_have_area_and_ratio() -> None:
    numbers = draws(20_000).numbers(2 * crops.ATTEMPTS + 2)
    boxes, fits = crops._boxes(numbers, (100, 200), [0.1, 0.5], RATIO)
    top, left, height, width = boxes.T
    assert fits.mean() > 0.99
    assert top.min() == left.min() == 0
    assert (top + height).max() == 100
    assert (left + width).max() == 200
    shares = height * width / 20_000
    ratios = width / height
    assert 0.09 < shares.min() < shares.max() < 0.51
    assert 0.73 < ratios.min() < ratios.max() < 1.37
    params = v2.RandomResizedCrop(10, scale=(0.1, 0.5), ratio=(0.75, 1.3333)).make_params
    torch.manual_seed(0)
    image = torch.zeros(1, 100, 200)
    theirs = [params([image]) for _ in range(2000)]
    for name, ours in (("height", height), ("width", width), ("top", top), ("left", left)):
        assert ours.mean() == pytest.approx(np.mean([each[name] for each in theirs]), rel=0.05)


def test_narrow_image_gets_central_crop(photos: Images) -> None:
    strip = torch.arange(100, dtype=torch.uint8).expand(1, 3, 4, 100)
    cropped = crops.random_resized_crop(
        strip, draws(1), (4, 4), scale=[0.9, 1.0], ratio=[1.0, 1.0], flip=False
    )
    assert torch.equal(cropped, strip[..., 48:52])


def test_half_of_crops_are_mirrored() -> None:
    ramp = torch.arange(8, dtype=torch.uint8).expand(400, 1, 8, 8)
    whole = {"scale": [1.0, 1.0], "ratio": [1.0, 1.0]}
    cropped = crops.random_resized_crop(ramp, draws(400), (8, 8), flip=True, **whole)
    mirrored = (cropped[:, 0, 0, 0] == 7).sum().item()
    assert 160 < mirrored < 240
    assert torch.equal(cropped[cropped[:, 0, 0, 0] == 0][0], ramp[0])


def test_erasing_makes_gray_rectangles() -> None:
    images = torch.zeros(1000, 3, 20, 20, dtype=torch.uint8)
    settings = {"scale": [0.1, 0.2], "ratio": [0.5, 2.0]}
    erased = crops.random_erasing(images, draws(1000), (20, 20), probability=0.3, **settings)
    areas = (erased[:, 0] == crops.GRAY).sum((1, 2))
    assert set(erased.unique().tolist()) == {0, crops.GRAY}
    assert 0.25 < (areas > 0).float().mean() < 0.35
    assert areas[areas > 0].min() >= 36
    assert areas.max() <= 85
    never = crops.random_erasing(images, draws(1000), (20, 20), probability=0.0, **settings)
    assert torch.equal(never, images)


def test_jitter_of_zero_changes_nothing(photos: Images) -> None:
    none = {"brightness": 0.0, "contrast": 0.0, "saturation": 0.0, "hue": 0.0}
    same = color.color_jitter(photos, draws(6), SIZE, **none)
    assert (same.int() - photos.int()).abs().max() <= 1
    darker = color.color_jitter(photos, draws(6), SIZE, **none | {"brightness": 0.5})
    ratio = darker.float().mean((1, 2, 3)) / photos.float().mean((1, 2, 3))
    assert 0.4 < ratio.min() < ratio.max() < 1.5
    assert len(ratio.unique()) == 6


def test_each_operation_is_drawn() -> None:
    numbers = draws(5000).numbers(3)
    chosen = (numbers[:, 0] * len(policies.WIDE)).astype(int)
    assert np.bincount(chosen, minlength=14).min() > 250
    levels = np.floor(numbers[:, 1] * 31) / 30
    assert (levels.min(), levels.max(), len(np.unique(levels))) == (0, 1, 31)


def test_operations_reach_torchvisions_magnitudes() -> None:
    ones = np.ones(1)
    wide = [operation.values(ones, -ones)[0] for operation in policies.WIDE]
    assert wide == pytest.approx(
        [0, -0.99, -0.99, -32, -32, -135, 0.01, 0.01, 0.01, 0.01, 2, 0, 0, 0]
    )
    rand = [operation.values(ones, ones)[0] for operation in policies.RAND]
    share = 150 / 331
    assert rand == pytest.approx([0, 0.3, 0.3, share, share, 30, 1.9, 1.9, 1.9, 1.9, 4, 0, 0, 0])


def test_rand_augment_of_zero_changes_little(photos: Images) -> None:
    """Autocontrast and equalize have no magnitude."""
    changed = policies.rand_augment(
        photos[:1].expand(300, -1, -1, -1), draws(300), SIZE, num_ops=1, magnitude=0
    )
    same = sum(torch.equal(image, photos[0]) for image in changed)
    assert same + 30 > 300 * 11 / 14
    assert same < 300
