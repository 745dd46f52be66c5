"""Data sets and splits: what is read, how it is dealt, and what the files say."""

from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits

from retrace import fetching, params, paths, splits
from retrace.datasets import DATASETS, digits, mnist
from retrace.errors import DataError
from retrace.samples import Samples


def idx(array: np.ndarray) -> bytes:
    sizes = b"".join(size.to_bytes(4, "big") for size in array.shape)
    return bytes([0, 0, 8, array.ndim]) + sizes + array.tobytes()


@pytest.fixture
def raw_mnist(tmp_path: Path) -> Path:
    """Seven training and two test images in MNIST's own format."""
    rng = np.random.default_rng(0)
    for file, shape in zip(mnist.FILES, [(7, 28, 28), (7,), (2, 28, 28), (2,)], strict=True):
        (tmp_path / file.name).write_bytes(idx(rng.integers(0, 10, shape, dtype=np.uint8)))
    return tmp_path


def test_every_data_set_has_settings_and_they_fit(values: params.Values) -> None:
    readers = {name: dataset.read for name, dataset in DATASETS.items()}
    assert set(params.bind_all(readers, values["datasets"], "datasets")) == set(DATASETS)


def test_mnist_is_read_from_its_four_files(raw_mnist: Path) -> None:
    training, test = mnist.read(raw_mnist)
    assert (training.images.shape, training.images.dtype) == ((7, 1, 28, 28), np.uint8)
    assert (len(test), test.labels.dtype, test.class_names[9]) == (2, np.int64, "9")


@pytest.mark.parametrize("damage", [b"", b"\0\0\x08", b"<html>no</html>", b"\0\0\x09\x01\0\0\0\x01\0"])
def test_a_damaged_idx_file_is_named(raw_mnist: Path, damage: bytes) -> None:
    (raw_mnist / mnist.TEST_LABELS.name).write_bytes(damage)
    with pytest.raises(DataError, match="t10k-labels-idx1-ubyte: not an IDX file"):
        mnist.read(raw_mnist)


@pytest.mark.parametrize("zoom", [1, 2, 3])
def test_digits_are_scikit_learn_s_in_the_middle_of_a_black_frame(
    folder: Path, monkeypatch: pytest.MonkeyPatch, zoom: int
) -> None:
    monkeypatch.setenv("RETRACE_CACHE", str(folder / "cache"))
    fetching.fetch("digits", digits.FILES, digits.SOURCES, folder / "raw")
    samples, test = digits.read(folder / "raw", zoom=zoom)
    expected, targets = load_digits(return_X_y=True)
    assert test is None
    np.testing.assert_array_equal(samples.labels, targets)
    margin = (28 - 8 * zoom) // 2
    inner = samples.images[:, 0, margin : margin + 8 * zoom : zoom, margin : margin + 8 * zoom : zoom]
    np.testing.assert_array_equal(inner, np.asarray(expected, dtype=int).reshape(-1, 8, 8) * 255 // 16)
    assert samples.images[:, :, :margin].max() == 0


def shares(part: Samples) -> list[float]:
    return (np.bincount(part.labels, minlength=3) / len(part)).tolist()


def test_parts_are_disjoint_complete_stratified_and_seeded(stripes: Samples) -> None:
    marked = Samples(np.arange(300, dtype=np.uint8).reshape(-1, 1, 1, 1), stripes.labels, stripes.class_names)
    parts = splits.deal(marked, None, 0.1, 0.2, seed=0)
    assert [len(part) for part in parts] == [216, 24, 60]
    assert np.sort(np.concatenate([part.images.ravel() for part in parts])).tolist() == sorted(marked.images.ravel())
    assert all(share == pytest.approx(1 / 3) for part in parts for share in shares(part))
    again, other = splits.deal(marked, None, 0.1, 0.2, seed=0), splits.deal(marked, None, 0.1, 0.2, seed=1)
    assert (again[1].images == parts[1].images).all()
    assert not (other[1].images == parts[1].images).all()


def test_a_data_set_s_own_test_part_is_left_alone(stripes: Samples) -> None:
    own = stripes.take(np.arange(30))
    assert splits.deal(stripes, own, 0.1, 0.2, seed=0)[2] is own


def test_a_fraction_too_small_for_the_classes_is_explained(stripes: Samples) -> None:
    with pytest.raises(DataError, match="class by class"):
        splits.deal(stripes, stripes, 0.001, 0.2, seed=0)


def test_scale_is_the_mean_and_deviation_of_each_channel() -> None:
    images = np.random.default_rng(0).integers(0, 256, (20, 2, 5, 5), dtype=np.uint8)
    images[:, 1] = 7
    scale = splits.scale(Samples(images, np.zeros(20, dtype=np.int64), ("a",)))
    assert scale.mean == pytest.approx((images[:, 0].mean(), 7))
    assert scale.std == pytest.approx((images[:, 0].std(), 1))


def test_a_part_comes_back_from_its_file_and_equal_parts_are_equal_files(tmp_path: Path, stripes: Samples) -> None:
    scale = splits.scale(stripes)
    for name in "ab":
        splits.save(tmp_path / name, stripes, scale)
    loaded, said = splits.load(tmp_path / "a")
    np.testing.assert_array_equal(loaded.images, stripes.images)
    np.testing.assert_array_equal(loaded.labels, stripes.labels)
    assert (loaded.class_names, said) == (stripes.class_names, scale)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize("keep", [0, 4, 200, -1])
def test_a_file_cut_short_is_refused_with_what_makes_it(tmp_path: Path, stripes: Samples, keep: int) -> None:
    part = tmp_path / "part.safetensors"
    splits.save(part, stripes, splits.scale(stripes))
    part.write_bytes(part.read_bytes()[:keep])
    with pytest.raises(DataError, match=r"part\.safetensors: .*dvc repro preprocess"):
        splits.load(part)


def test_a_missing_part_is_refused_with_what_makes_it() -> None:
    with pytest.raises(DataError, match="dvc repro preprocess"):
        splits.load(paths.PROCESSED / "nothing")
