"""A large split is stored in shards, and read as if it were one file."""

import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from lab import paths
from lab.data import batches, memmap, storage
from lab.data.batches import FileInputs
from lab.data.samples import Samples
from lab.data.storage import Scale
from retrace.errors import DataError
from retrace.system import memory

pytestmark = pytest.mark.usefixtures("folder")

SCALE = Scale((1.5,), (2.5,))
NAMES = [f"0000{number}-of-00004.safetensors" for number in range(4)]
CPU = torch.device("cpu")


@pytest.fixture
def samples() -> Samples:
    random = np.random.default_rng(0)
    inputs = random.integers(0, 256, (503, 1, 28, 28), dtype=np.uint8)
    return Samples(inputs, random.integers(0, 3, 503), ("cat", 'dog "Rex"', "Löwe"), resize=32)


@pytest.fixture
def sharded(samples: Samples) -> Path:
    """Return the path of a split in four shards of 126, 126, 126 and 125 samples."""
    storage.save(paths.TRAIN, samples, SCALE, samples.inputs.nbytes / 3.5)
    return paths.TRAIN


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Report 4,000 bytes of free memory."""
    monkeypatch.setattr(memory, "free", lambda: 4_000)


def test_shards_equal_one_file(samples: Samples, sharded: Path) -> None:
    assert sorted(path.name for path in sharded.iterdir()) == NAMES
    loaded, scale = storage.load(sharded)
    assert isinstance(loaded.inputs, memmap.Shards)
    np.testing.assert_array_equal(np.asarray(loaded.inputs), samples.inputs)
    np.testing.assert_array_equal(loaded.labels, samples.labels)
    assert (loaded.class_names, loaded.resize, scale) == (samples.class_names, 32, SCALE)
    alone, _ = storage.load(sharded / NAMES[3])
    np.testing.assert_array_equal(alone.inputs, samples.inputs[-125:])


@pytest.mark.parametrize("shard_bytes", [503 * 784, np.inf])
def test_small_split_is_one_file(samples: Samples, tmp_path: Path, shard_bytes: float) -> None:
    storage.save(tmp_path / "split", samples, SCALE, shard_bytes)
    storage.save(tmp_path / "other", samples, SCALE)
    assert (tmp_path / "split").read_bytes() == (tmp_path / "other").read_bytes()


def test_split_replaces_other_form(samples: Samples, sharded: Path) -> None:
    storage.save(sharded, samples, SCALE)
    assert sharded.is_file()
    storage.save(sharded, samples, SCALE, 784 * 300)
    assert len(list(sharded.iterdir())) == 2
    storage.save(sharded, samples, SCALE, 784 * 200)
    assert len(list(sharded.iterdir())) == 3


@pytest.mark.parametrize("key", [0, -1, 126, slice(120, 130), slice(3), np.array([502, 0, 126])])
def test_shards_are_indexed_as_array(
    samples: Samples, sharded: Path, key: int | slice | np.ndarray
) -> None:
    inputs = storage.load(sharded)[0].inputs
    np.testing.assert_array_equal(inputs[key], samples.inputs[key])
    assert inputs.shape == samples.inputs.shape
    assert len(list(inputs)) == 503


@pytest.mark.parametrize("key", [503, -504, np.array([1, 503])])
def test_index_out_of_bounds(sharded: Path, key: int | np.ndarray) -> None:
    with pytest.raises(IndexError):
        storage.load(sharded)[0].inputs[key]


@pytest.mark.parametrize("free", [1 << 40, 4_000])
def test_batches_equal_one_file(
    samples: Samples, sharded: Path, monkeypatch: pytest.MonkeyPatch, free: int
) -> None:
    loaded, _ = storage.load(sharded)
    monkeypatch.setattr(memory, "free", lambda: free)
    splits = [batches.on_device(each, CPU) for each in (samples, loaded)]
    assert isinstance(splits[1].inputs, FileInputs) == (free == 4_000)
    for order in (shuffled, in_order):
        first, second = map(order, splits)
        assert torch.equal(first, second)


def shuffled(split: batches.Split) -> torch.Tensor:
    epoch = batches.shuffled(split, 7, None, torch.Generator(), seed=0, epoch=0)
    return torch.cat([inputs for inputs, _ in epoch])


def in_order(split: batches.Split) -> torch.Tensor:
    return torch.cat(list(split.inputs.split(50)))


@pytest.mark.usefixtures("short")
def test_batches_of_files_are_sliced(samples: Samples, sharded: Path) -> None:
    split = batches.on_device(storage.load(sharded)[0], CPU)
    pieces = split.inputs.split(100)
    assert [len(piece) for piece in pieces] == [100, 100, 100, 100, 100, 3]
    second, last = pieces[1::4]
    assert torch.equal(second, torch.from_numpy(samples.inputs[100:200]))
    assert torch.equal(last, torch.from_numpy(samples.inputs[500:]))


@pytest.mark.usefixtures("short")
def test_reader_refuses_index_out_of_bounds(sharded: Path) -> None:
    reader = batches.on_device(storage.load(sharded)[0], CPU).reader
    assert reader is not None
    reader.expect([0, 125, 126, 502])
    with pytest.raises(ValueError, match="out of bounds"):
        reader.expect([10_000])


NAMED = ["data/images/ä b.png", "", "a\nb", "猫"]


def card(path: Path) -> str:
    with safe_open(path, framework="numpy") as file:
        return file.metadata()["card"]


@pytest.mark.parametrize("shard_bytes", [np.inf, 2])
def test_names_are_kept(tmp_path: Path, shard_bytes: float) -> None:
    inputs = np.zeros((4, 1, 1, 1), np.uint8)
    names = np.array(NAMED, dtype=object)
    samples = Samples(inputs, np.arange(4), ("a", "b", "c", "d"), names)
    storage.save(tmp_path / "split", samples, SCALE, shard_bytes)
    loaded, _ = storage.load(tmp_path / "split")
    assert [loaded.name(i) for i in range(4)] == NAMED
    assert loaded.labels.tolist() == [0, 1, 2, 3]
    if shard_bytes == np.inf:  # the library orders and writes them alike
        arrays = load_file(tmp_path / "split")
        save_file(arrays, tmp_path / "library", {"card": card(tmp_path / "split")})
        assert (tmp_path / "library").read_bytes() == (tmp_path / "split").read_bytes()


def test_samples_without_names_have_numbers(samples: Samples, tmp_path: Path) -> None:
    storage.save(tmp_path / "split", samples)
    assert sorted(load_file(tmp_path / "split")) == ["inputs", "labels"]
    assert storage.load(tmp_path / "split")[0].name(502) == "502"


def swap_with_another_split(path: Path) -> None:
    other = Samples(np.zeros((126, 1, 9, 9), np.uint8), np.zeros(126, np.int64), ("cat",))
    storage.save(path, other, SCALE)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "missing": Path.unlink,
    "cut short": lambda path: os.truncate(path, path.stat().st_size - 1),
    "empty": lambda path: os.truncate(path, 0),
    "of another split": swap_with_another_split,
}


@pytest.mark.parametrize("name", [NAMES[0], NAMES[2], NAMES[3]])
@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_shard_is_named(sharded: Path, damage: str, name: str) -> None:
    DAMAGES[damage](sharded / name)
    named = NAMES[1] if (damage, name) == ("of another split", NAMES[0]) else name
    with pytest.raises(DataError) as raised:
        storage.load(sharded)
    message = str(raised.value)
    assert re.match(rf"{sharded}/{named}: [^\n]+$", message)
    assert "`dvc repro preprocess`" in message
    assert f"`dvc pull {sharded}/{named}`" in message


def test_empty_folder_is_named(sharded: Path) -> None:
    shutil.rmtree(sharded)
    sharded.mkdir()
    with pytest.raises(DataError, match=rf"^{sharded}: .*`dvc repro preprocess`"):
        storage.load(sharded)
