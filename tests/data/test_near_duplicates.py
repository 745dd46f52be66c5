"""Images that look alike in two splits: found by their hashes, without comparing all pairs."""

from itertools import combinations

import numpy as np
import pytest
from PIL import Image

from lab.data import duplicates, near_duplicates
from lab.data.samples import Samples


def photo(seed: int, side: int = 64) -> np.ndarray:
    """Return a smooth colour image (3, side, side)."""
    coarse = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    image = Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC)
    return np.asarray(image).transpose(2, 0, 1)


def resized(image: np.ndarray) -> np.ndarray:
    """Return an image as after a resize to a third and back, a little darker."""
    full = Image.fromarray(np.ascontiguousarray(image.transpose(1, 2, 0)))
    small = full.resize((20, 20), Image.Resampling.BILINEAR)
    back = np.asarray(small.resize(full.size)).transpose(2, 0, 1)
    return (back * 0.9).astype(np.uint8)


def samples(*images: np.ndarray) -> Samples:
    names = np.array([f"{number}.png" for number in range(len(images))], dtype=object)
    return Samples(
        np.ascontiguousarray(np.stack(images)), np.zeros(len(images), np.int64), ("a",), names
    )


def test_resized_photo_is_listed_with_distance() -> None:
    splits = {
        "train": samples(*(photo(seed) for seed in range(50))),
        "validation": samples(photo(100), resized(photo(7))),
        "test": samples(resized(photo(100)), photo(8), photo(200)),
    }
    equal = duplicates.across(splits)
    assert [pair.sample for pair in equal] == ["1.png"]
    pairs = near_duplicates.across(splits, 6, equal)
    named = {(pair.split, pair.sample, pair.earlier_split, pair.earlier_sample) for pair in pairs}
    assert named == {
        ("validation", "1.png", "train", "7.png"),
        ("test", "0.png", "validation", "0.png"),
    }
    assert all(0 <= pair.distance <= 6 for pair in pairs)
    assert [pair.distance for pair in pairs] == sorted(pair.distance for pair in pairs)


def test_flat_images_are_not_alike() -> None:
    noise = np.random.default_rng(0).integers(0, 3, (4, 1, 16, 16), dtype=np.uint8)
    flat = [200 + image for image in noise]
    splits = {"train": samples(*flat[:2]), "test": samples(*flat[2:])}
    assert near_duplicates.across(splits, 10, []) == []


def test_points_are_no_images() -> None:
    points = Samples(np.zeros((3, 2), np.float32), np.zeros(3, np.int64), ("a",))
    assert near_duplicates.across({"train": points, "test": points}, 4, []) == []


@pytest.mark.parametrize("largest", [1, 4, 10])
def test_nearest_equals_that_of_all_pairs(largest: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(near_duplicates, "CANDIDATES", 100)
    rng = np.random.default_rng(largest)
    earlier = rng.integers(0, 2**63, 300, dtype=np.uint64)
    later = earlier[:200].copy()
    for i in range(200):
        for bit in rng.choice(64, i % 14, replace=False):
            later[i] ^= np.uint64(1 << int(bit))
    earlier = np.concatenate([earlier, earlier[:10]])
    nearest, distances = near_duplicates._nearest(later, earlier, largest)
    all_distances = np.bitwise_count(later[:, None] ^ earlier)
    expected = all_distances.min(axis=1).astype(int)
    is_near = expected <= largest
    np.testing.assert_array_equal(distances, np.where(is_near, expected, 64))
    np.testing.assert_array_equal(nearest[is_near], all_distances.argmin(axis=1)[is_near])


def test_hash_is_that_of_the_cosine_transform() -> None:
    matrix = near_duplicates._cosines(32)
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(8), atol=1e-6)
    enlarged = near_duplicates._cosines(64)
    row = np.random.default_rng(0).normal(size=32)
    np.testing.assert_allclose(enlarged @ row.repeat(2), matrix @ row, atol=1e-5)
    assert all(abs(matrix[i] @ matrix[j]) < 1e-6 for i, j in combinations(range(8), 2))
