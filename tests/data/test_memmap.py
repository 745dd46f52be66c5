"""Arrays too large for memory stay in files."""

import resource
from pathlib import Path

import numpy as np
import psutil
import pytest
import safetensors.numpy
import torch

from lab import paths
from lab.data import batches, memmap, storage
from lab.data.samples import Samples
from lab.data.storage import Scale
from retrace.errors import DataError
from retrace.system import memory

BYTES = np.dtype(np.uint8)
SCALE = Scale((1.5,), (2.5,))


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Report 4,000 bytes of free memory."""
    monkeypatch.setattr(memory, "free", lambda: 4_000)


@pytest.fixture
def samples() -> Samples:
    random = np.random.default_rng(0)
    inputs = random.integers(0, 256, (500, 1, 28, 28), dtype=np.uint8)
    return Samples(inputs, random.integers(0, 3, 500), ("cat", 'dog "Rex"', "Löwe"))


@pytest.mark.usefixtures("folder", "short")
def test_large_array_is_unnamed_file() -> None:
    small, large = memmap.empty((10, 100), BYTES), memmap.empty((11, 100), BYTES)
    assert (type(small), type(large)) == (np.ndarray, np.memmap)
    large[:] = 7
    assert large.sum() == 7 * 1100
    assert not [file for file in paths.PROCESSED.parent.rglob("*") if file.is_file()]


@pytest.mark.usefixtures("folder", "short")
def test_array_too_large_for_disk() -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
    try:
        with pytest.raises(
            DataError,
            match=r"^data: no room for 10,001 bytes \(File too large\); free some disk space",
        ):
            memmap.empty((10_001,), BYTES)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.mark.parametrize("group_folder", ["", "of", "of/mine"])
@pytest.mark.parametrize(
    ("group", "limit", "used"),
    [
        ("0::/of/mine", "memory.max", "memory.current"),
        ("4:memory:/of/mine", "memory/{}/memory.limit_in_bytes", "memory/{}/memory.usage_in_bytes"),
        (
            "4:cpu,memory:/of/mine",
            "memory/{}/memory.limit_in_bytes",
            "memory/{}/memory.usage_in_bytes",
        ),
    ],
)
def test_free_memory_in_container(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    group: str,
    limit: str,
    used: str,
    group_folder: str,
) -> None:
    monkeypatch.setattr(memory, "CGROUPS", tmp_path)
    monkeypatch.setattr(memory, "OWN_GROUPS", tmp_path / "groups")
    (tmp_path / "groups").write_text(f"2:cpu:/elsewhere\n{group}\n")
    assert memory.free() > psutil.virtual_memory().available / 2
    most, now = (tmp_path / name.format(group_folder) for name in (limit, used))
    most.parent.mkdir(parents=True, exist_ok=True)
    now.write_text("1000\n")
    most.write_text("1500\n")
    assert memory.free() == 500
    (most.parent / "memory.stat").write_text(
        "cache 600\ninactive_file 30\nactive_file 20\nanon 400\n"
    )
    assert memory.free() == 550
    (most.parent / "memory.stat").unlink()
    most.write_text("900\n")
    assert memory.free() == 0
    most.write_text("max\n")
    assert memory.free() > psutil.virtual_memory().available / 2


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("is_short", [False, True])
def test_take_equals_from_file_and_memory(
    samples: Samples, monkeypatch: pytest.MonkeyPatch, is_short: bool
) -> None:
    if is_short:
        monkeypatch.setattr(memory, "free", lambda: 4_000)
        monkeypatch.setattr(memmap, "BLOCK", 5_000)
    indices = np.random.default_rng(1).permutation(500)[:300]
    taken = samples.take(indices)
    assert isinstance(taken.inputs, np.memmap) == is_short
    np.testing.assert_array_equal(taken.inputs, samples.inputs[indices])


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("block", [1, 5_000, 1 << 24])
@pytest.mark.parametrize("kind", [np.uint8, np.float32])
def test_split_file_equals_safetensors(
    samples: Samples, monkeypatch: pytest.MonkeyPatch, kind: type, block: int
) -> None:
    monkeypatch.setattr(memmap, "BLOCK", block)
    inputs = samples.inputs if kind is np.uint8 else samples.inputs.reshape(500, -1).astype(kind)
    storage.save(paths.TRAIN, Samples(inputs, samples.labels, samples.class_names), SCALE)
    with safetensors.safe_open(paths.TRAIN, "numpy") as file:
        arrays = {"inputs": inputs, "labels": samples.labels}
        assert paths.TRAIN.read_bytes() == safetensors.numpy.save(arrays, file.metadata())
    loaded, scale = storage.load(paths.TRAIN)
    np.testing.assert_array_equal(loaded.inputs, inputs)
    assert (loaded.class_names, scale) == (samples.class_names, SCALE)


@pytest.mark.usefixtures("folder")
def test_batches_equal_from_file_and_memory(
    samples: Samples, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage.save(paths.TRAIN, samples, SCALE)
    loaded, _ = storage.load(paths.TRAIN)
    drawn = []
    for free in (1 << 40, 4_000):
        monkeypatch.setattr(memory, "free", lambda free=free: free)
        part = batches.on_device(loaded, torch.device("cpu"))
        assert (part.reader is None) == (free == 1 << 40)
        epoch = batches.shuffled(
            part, 7, lambda inputs, _: inputs, torch.Generator(), seed=0, epoch=0, after=3
        )
        drawn.append(torch.cat([inputs for inputs, _ in epoch]))
    assert torch.equal(*drawn)


@pytest.mark.usefixtures("folder")
def test_reader_refuses_index_out_of_bounds(samples: Samples) -> None:
    storage.save(paths.TRAIN, samples, SCALE)
    loaded, _ = storage.load(paths.TRAIN)
    assert isinstance(loaded.inputs, np.memmap)
    reader = memmap.Reader([loaded.inputs])
    reader.expect([0, 250, 499])
    with pytest.raises(ValueError, match="out of bounds"):
        reader.expect([10_000])
