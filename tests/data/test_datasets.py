"""Data sets, splits, the scale of inputs, split files and duplicates."""

import re
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from conftest import typed
from sklearn.datasets import load_digits
from sklearn.model_selection import StratifiedKFold, train_test_split

from lab import params, paths
from lab.data import duplicates, split, storage
from lab.data.datasets import DATASETS, cifar10, circles, digits, fashion_mnist, mnist
from lab.data.samples import Samples, Splits
from retrace.errors import DataError, ParamsError
from retrace.pipeline import params_yaml


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


@pytest.fixture
def raw_digits(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RETRACE_CACHE", str(folder / "cache"))
    digits.collect(folder / "raw")
    return folder / "raw"


def test_data_sets_have_valid_settings(values: params_yaml.Values) -> None:
    readers = {name: dataset.read for name, dataset in DATASETS.items()}
    assert set(params.bind_all(readers, values["datasets"], "datasets")) == set(DATASETS)


@pytest.mark.parametrize(("dataset", "last"), [(mnist, "9"), (fashion_mnist, "ankle boot")])
def test_mnist_reads_four_files(raw_mnist: Path, dataset: ModuleType, last: str) -> None:
    train, validation, test, _ = dataset.read(raw_mnist)
    assert (train.inputs.shape, train.inputs.dtype, validation) == ((7, 1, 28, 28), np.uint8, None)
    assert (len(test), test.labels.dtype, test.class_names[9]) == (2, np.int64, last)


@pytest.mark.parametrize(
    "damage", [b"", b"\0\0\x08", b"<html>no</html>", b"\0\0\x09\x01\0\0\0\x01\0"]
)
def test_idx_file_damaged(raw_mnist: Path, damage: bytes) -> None:
    (raw_mnist / mnist.TEST_LABELS.name).write_bytes(damage)
    with pytest.raises(DataError, match="t10k-labels-idx1-ubyte: not an IDX file"):
        mnist.read(raw_mnist)


@pytest.fixture
def raw_cifar10(tmp_path: Path) -> Path:
    """Two images a file in CIFAR-10's format.

    File k has the labels k and 9. A pixel's value depends on its channel only.
    """
    for number, file in enumerate(cifar10.FILES):
        image = np.repeat(np.array([10, 20, 30], np.uint8), 32 * 32).tobytes()
        (tmp_path / file.name).write_bytes(bytes([number]) + image + bytes([9]) + image)
    return tmp_path


def test_cifar10_is_read_in_file_order(raw_cifar10: Path) -> None:
    train, validation, test, _ = cifar10.read(raw_cifar10)
    assert (train.inputs.shape, train.inputs.dtype, validation) == ((10, 3, 32, 32), np.uint8, None)
    assert train.labels.tolist() == [0, 9, 1, 9, 2, 9, 3, 9, 4, 9]
    assert (train.inputs == np.array([10, 20, 30]).reshape(3, 1, 1)).all()
    assert test is not None
    assert (test.labels.tolist(), test.class_names[9]) == ([5, 9], "truck")


@pytest.mark.parametrize("damage", [b"", b"short", bytes(3074)])
def test_cifar10_file_damaged(raw_cifar10: Path, damage: bytes) -> None:
    (raw_cifar10 / "data_batch_3.bin").write_bytes(damage)
    with pytest.raises(
        DataError, match=r"data_batch_3\.bin: not rows of 3073 bytes; .*dvc repro download"
    ):
        cifar10.read(raw_cifar10)


@pytest.mark.parametrize(("zoom", "side"), [(1, 28), (2, 28), (3, 28), (1, 8), (2, 17)])
def test_digits_are_centred_on_black(raw_digits: Path, zoom: int, side: int) -> None:
    samples, *others = digits.read(raw_digits, classes=10, zoom=zoom, side=side)
    expected, targets = load_digits(return_X_y=True)
    assert others == [None, None, ()]
    np.testing.assert_array_equal(samples.labels, targets)
    margin = (side - 8 * zoom) // 2
    inner = samples.inputs[
        :, 0, margin : margin + 8 * zoom : zoom, margin : margin + 8 * zoom : zoom
    ]
    np.testing.assert_array_equal(
        inner, np.asarray(expected, dtype=int).reshape(-1, 8, 8) * 255 // 16
    )
    assert samples.inputs.shape == (1797, 1, side, side)
    assert (
        samples.inputs[:, :, :margin].sum() + samples.inputs[:, :, margin + 8 * zoom :].sum() == 0
    )


def test_digits_of_the_first_classes(raw_digits: Path) -> None:
    samples = digits.read(raw_digits, classes=3, zoom=1, side=8).train
    targets = load_digits(return_X_y=True)[1]
    assert (len(samples), samples.class_names) == ((targets < 3).sum(), ("0", "1", "2"))
    assert set(samples.labels) == {0, 1, 2}


def test_digits_larger_than_their_frame(folder: Path) -> None:
    with pytest.raises(
        ParamsError,
        match=r"datasets\.digits\.side is 16; should be at least 8 \* zoom, which is 24$",
    ):
        digits.read(folder, classes=10, zoom=3, side=16)


def test_circles_are_concentric(folder: Path) -> None:
    assert circles.collect(folder / "raw") == "generated here"
    assert list((folder / "raw").iterdir()) == []
    samples, *others = circles.read(folder / "raw", samples=100, noise=0.0, random_state=1)
    assert others == [None, None, ()]
    assert (samples.inputs.shape, samples.inputs.dtype, samples.labels.dtype) == (
        (100, 2),
        np.float32,
        np.int64,
    )
    radii = np.linalg.norm(samples.inputs, axis=1)
    assert samples.class_names == ("outer", "inner")
    assert radii[samples.labels == 0] == pytest.approx(1)
    assert radii[samples.labels == 1] == pytest.approx(0.8)


def test_circles_are_seeded_and_noisy(folder: Path) -> None:
    first, again, other = (
        circles.read(folder, samples=40, noise=0.1, random_state=seed).train for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first.inputs, again.inputs)
    assert not (first.inputs == other.inputs).any()
    assert np.linalg.norm(first.inputs, axis=1).std() > 0.1


def shares(samples: Samples) -> list[float]:
    return (np.bincount(samples.labels, minlength=3) / len(samples)).tolist()


def numbered(samples: Samples) -> Samples:
    """Samples whose only feature is their number."""
    return Samples(
        np.arange(len(samples), dtype=np.float32)[:, np.newaxis],
        samples.labels,
        samples.class_names,
    )


def numbers(*parts: Samples) -> list[int]:
    return sorted(int(number) for part in parts for number in part.inputs.ravel())


def settings(**changed: object) -> params.Preprocess:
    return typed(
        params.Preprocess,
        **{"validation_fraction": 0.1, "test_fraction": 0.2, "split_seed": 0} | changed,
    )


@pytest.mark.parametrize(
    ("n", "changed", "keys"),
    [
        (3, {}, ["validation_fraction"]),
        (3, {"test_fraction": 0.9}, ["test_fraction", "validation_fraction"]),
        (4, {"test_fraction": 0.4}, ["validation_fraction"]),
        (2, {}, [None]),
        (1, {}, [None]),
    ],
)
def test_rare_class_names_key_and_remedy(
    n: int, changed: dict[str, Any], keys: list[str | None]
) -> None:
    labels = np.array([0] * 300 + [1] * n)
    rare = Samples(np.zeros((300 + n, 2), dtype=np.float32), labels, ("cat", "dog"))
    for key in keys:
        with pytest.raises(DataError, match=r"class dog has \d, .* add samples of it$") as raised:
            split.split(Splits(rare), settings(**changed))
        repair = re.search(r"-S (\w+)=([\d.]+)", str(raised.value))
        assert (repair[1] if repair else None) == key
        changed = changed | ({repair[1]: float(repair[2])} if repair else {})
    if keys[0]:
        split.split(Splits(rare), settings(**changed))


def test_splits_are_disjoint_stratified_seeded(stripes: Samples) -> None:
    parts = split.split(Splits(numbered(stripes)), settings())
    assert [len(part) for part in parts] == [216, 24, 60]
    assert numbers(*parts) == list(range(300))
    assert all(share == pytest.approx(1 / 3) for part in parts for share in shares(part))
    again, other = (
        split.split(Splits(numbered(stripes)), settings(split_seed=seed)) for seed in (0, 1)
    )
    assert numbers(again[1]) == numbers(parts[1]) != numbers(other[1])


@pytest.mark.parametrize(
    "changed", [{}, {"folds": 5, "fold": 2}, {"class_shares": [1.0, 0.5, 0.5]}]
)
def test_test_split_never_changes_training(stripes: Samples, changed: dict[str, Any]) -> None:
    poison = Samples(255 - stripes.inputs, stripes.labels[::-1].copy(), stripes.class_names)
    (train, validation, _), (same_train, same_validation, _) = (
        split.split(Splits(stripes, test=test), settings(**changed)) for test in (stripes, poison)
    )
    for part, same in ((train, same_train), (validation, same_validation)):
        assert np.array_equal(part.inputs, same.inputs)
        assert np.array_equal(part.labels, same.labels)
    assert storage.scale(train) == storage.scale(same_train)


def test_own_splits_are_kept(stripes: Samples) -> None:
    own = stripes.take(np.arange(30))
    assert split.split(Splits(stripes, test=own), settings())[2] is own
    assert split.split(Splits(stripes, own, own), settings()) == (stripes, own, own)


def test_folds_are_disjoint_and_complete(stripes: Samples) -> None:
    splits = [
        split.split(Splits(numbered(stripes)), settings(folds=5, fold=fold)) for fold in range(5)
    ]
    assert {tuple(numbers(test)) for _, _, test in splits} == {tuple(numbers(splits[0][2]))}
    assert numbers(*(validation for _, validation, _ in splits), splits[0][2]) == list(range(300))
    assert all(numbers(*parts) == list(range(300)) for parts in splits)


def test_split_is_train_test_split(stripes: Samples) -> None:
    train, validation, _ = split.split(Splits(numbered(stripes), test=stripes), settings())
    kept, taken = train_test_split(
        np.arange(300), test_size=0.1, random_state=0, stratify=stripes.labels
    )
    assert [numbers(train), numbers(validation)] == [sorted(kept), sorted(taken)]


def test_fold_is_stratified_k_fold(stripes: Samples) -> None:
    p = settings(folds=5, fold=3)
    train, validation, _ = split.split(Splits(numbered(stripes), test=stripes), p)
    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    kept, taken = list(folds.split(stripes.labels, stripes.labels))[3]
    assert [numbers(train), numbers(validation)] == [kept.tolist(), taken.tolist()]


def test_folds_need_samples_of_each_class(stripes: Samples) -> None:
    with pytest.raises(
        DataError, match="folds is 5, but class top has 4 samples; lower folds to 4"
    ):
        split.split(Splits(stripes.take(np.arange(12)), test=stripes), settings(folds=5, fold=0))


def test_class_shares_thin_training_only(stripes: Samples) -> None:
    train, validation, test = split.split(
        Splits(stripes, stripes, stripes), settings(class_shares=[1.0, 0.5, 0.001])
    )
    assert np.bincount(train.labels).tolist() == [100, 50, 1]
    assert (len(validation), len(test)) == (300, 300)
    with pytest.raises(ParamsError, match="class_shares has 2 numbers; should have 3"):
        split.split(Splits(stripes), settings(class_shares=[1.0, 0.5]))


def test_fraction_too_small_for_classes(stripes: Samples) -> None:
    with pytest.raises(DataError, match="-S validation_fraction=0.01, or add samples"):
        split.split(Splits(stripes, test=stripes), settings(validation_fraction=0.001))


def test_scale_by_feature() -> None:
    points = np.array([[1, 5], [3, 5]], np.float32)
    assert storage.scale(Samples(points, np.zeros(2, np.int64), ("a",))) == storage.Scale(
        (2.0, 5.0), (1.0, 1.0)
    )


def test_scale_by_channel() -> None:
    images = np.random.default_rng(0).integers(0, 256, (20, 2, 5, 5), dtype=np.uint8)
    images[:, 1] = 7
    scale = storage.scale(Samples(images, np.zeros(20, dtype=np.int64), ("a",)))
    assert scale.mean == pytest.approx((images[:, 0].mean(), 7))
    assert scale.std == pytest.approx((images[:, 0].std(), 1))


def test_split_file_round_trip(tmp_path: Path, stripes: Samples) -> None:
    scale = storage.scale(stripes)
    for name in "ab":
        storage.save(tmp_path / name, stripes, scale)
    loaded, loaded_scale = storage.load(tmp_path / "a")
    np.testing.assert_array_equal(loaded.inputs, stripes.inputs)
    np.testing.assert_array_equal(loaded.labels, stripes.labels)
    assert (loaded.class_names, loaded_scale) == (stripes.class_names, scale)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize("keep", [0, 4, 200, -1])
def test_split_file_truncated(tmp_path: Path, stripes: Samples, keep: int) -> None:
    part = tmp_path / "part.safetensors"
    storage.save(part, stripes, storage.scale(stripes))
    part.write_bytes(part.read_bytes()[:keep])
    with pytest.raises(DataError, match=r"part\.safetensors: .*dvc repro preprocess"):
        storage.load(part)


def test_split_file_missing() -> None:
    with pytest.raises(DataError, match="dvc repro preprocess"):
        storage.load(paths.PROCESSED / "nothing")


def test_duplicates_name_first_equal_sample(stripes: Samples) -> None:
    train = stripes.take(np.arange(5))
    test = stripes.take(np.array([7, 3, 8, 3]))
    named = Samples(
        test.inputs, (test.labels + 1) % 3, test.class_names, np.array(["a", "b", "c", "d"], object)
    )
    shared = duplicates.across(
        {"train": train, "validation": stripes.take(np.array([9])), "test": named}
    )
    assert shared == [
        ("test", "b", "middle", "train", "3", "top"),
        ("test", "d", "middle", "train", "3", "top"),
    ]
    assert duplicates.across({"train": named}) == []


def test_duplicates_of_features() -> None:
    points = Samples(np.array([[1, 2], [3, 4]], np.float32), np.array([0, 1]), ("a", "b"))
    assert len(duplicates.across({"train": points, "test": points.take(np.array([1]))})) == 1
