"""The splits of a data set as files.

A split is one packed safetensors file. A large one is a folder with that name instead, and has its
samples in shards: `train.safetensors/00002-of-00016.safetensors` is the third of sixteen. Each
shard is a complete split file.
"""

import json
import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import numpy as np
import safetensors

from lab.data import memmap
from lab.data.samples import Samples
from retrace.errors import DataError
from retrace.system import files

DTYPES = {"|u1": "U8", "<f4": "F32", "<i8": "I64"}  # numpy's names and safetensors'


@dataclass(frozen=True)
class Scale:
    """The mean and standard deviation to normalize by, for each channel (0..255) or feature."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


def scale(samples: Samples) -> Scale:
    """Compute mean and standard deviation by channel, or by feature; a deviation of 0 becomes 1."""
    if not samples.are_images:
        means = samples.inputs.mean(axis=0, dtype=np.float64)
        deviations = samples.inputs.std(axis=0, dtype=np.float64)
        deviations = np.where(deviations > 0, deviations, 1.0)
        return Scale(tuple(means.tolist()), tuple(deviations.tolist()))
    mean = []
    std = []
    values = np.arange(256)
    for channel in np.moveaxis(samples.inputs, 1, 0):
        # One image at a time: bincount copies to int64, eight times as large.
        counts = sum(np.bincount(image.ravel(), minlength=256) for image in channel)
        counts = counts / channel.size
        mean.append(float(counts @ values))
        std.append(float(np.sqrt(counts @ (values - mean[-1]) ** 2)) or 1.0)
    return Scale(tuple(mean), tuple(std))


def save(
    path: Path, samples: Samples, scale: Scale | None = None, shard_bytes: float = math.inf
) -> None:
    """Write `samples`, and for the training split its `scale`; equal samples give equal bytes.

    Inputs of more than `shard_bytes` are written as shards of the same number of samples.
    """
    if path.is_dir():
        shutil.rmtree(path)
    n_shards = math.ceil(samples.inputs.nbytes / shard_bytes)
    if n_shards <= 1:
        _save_file(path, samples, scale)
        return
    path.unlink(missing_ok=True)
    size = math.ceil(len(samples) / n_shards)
    firsts = range(0, len(samples), size)
    for name, first in zip(_shard_names(len(firsts)), firsts, strict=True):
        rows = slice(first, first + size)
        _save_file(path / name, _rows(samples, rows), scale)


def _rows(samples: Samples, rows: slice) -> Samples:
    names = None if samples.names is None else samples.names[rows]
    inputs = samples.inputs[rows]
    return replace(samples, inputs=inputs, labels=samples.labels[rows], names=names)


def _shard_names(n_shards: int) -> list[str]:
    return [f"{number:05}-of-{n_shards:05}.safetensors" for number in range(n_shards)]


def _save_file(path: Path, samples: Samples, scale: Scale | None) -> None:
    """Write one file, atomically."""
    metadata: dict[str, Any] = {"class_names": samples.class_names}
    if scale:
        metadata |= {"mean": scale.mean, "std": scale.std}
    if samples.resize:
        metadata["resize"] = samples.resize
    ends, names = _encoded(samples)
    arrays = {"labels": samples.labels, **ends, "inputs": samples.inputs, **names}
    header = _header(arrays, {"card": json.dumps(metadata)})
    size = len(header) + sum(array.nbytes for array in arrays.values())
    with files.atomic(path, size) as unfinished, unfinished.open("wb") as file:
        file.write(header)
        for array in (samples.labels, *ends.values()):
            file.write(array.tobytes())
        # safetensors would copy all inputs at once.
        for block in memmap.blocks(len(samples), samples.inputs[:1].nbytes):
            file.write(samples.inputs[block].tobytes())
        for array in names.values():
            file.write(array.tobytes())


def _encoded(samples: Samples) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Return the arrays for the names, if there are any: where each ends (n,), and all as UTF-8.

    They are not in the file's header, whose size safetensors limits.
    """
    if samples.names is None:
        return {}, {}
    encoded = [str(name).encode() for name in samples.names]
    ends = np.cumsum([len(name) for name in encoded], dtype=np.int64)
    return {"name_ends": ends}, {"names": np.frombuffer(b"".join(encoded), np.uint8)}


def _decoded(ends: np.ndarray, encoded: np.ndarray) -> np.ndarray:
    """Return the names that `_encoded` stored. Raises ValueError if they are not UTF-8."""
    content = encoded.tobytes()
    starts = [0, *ends.tolist()]
    names = [content[start:end].decode() for start, end in pairwise(starts)]
    return np.array(names, dtype=object)


def load(path: Path) -> tuple[Samples, Scale]:
    """Load a split; its scale is empty if none was saved.

    The inputs stay in their files, and are read when they are used. Raises DataError if a file is
    missing or truncated.
    """
    if not path.is_dir():
        return _load_file(path)
    shards = [_load_file(shard) for shard in _shards(path)]
    first, scale = shards[0]
    for number, (shard, shard_scale) in enumerate(shards):
        if _kind(shard) != _kind(first) or shard_scale != scale:
            name = _shard_names(len(shards))[number]
            raise DataError(f"{path / name}: is of another split; {_remedy(path / name)}")
    labels = np.concatenate([shard.labels for shard, _ in shards])
    inputs = memmap.Shards([shard.inputs for shard, _ in shards])
    parts = [shard.names for shard, _ in shards if shard.names is not None]
    names = np.concatenate(parts) if parts else None
    return replace(first, inputs=cast("np.ndarray", inputs), labels=labels, names=names), scale


def _shards(folder: Path) -> list[Path]:
    """Return the paths of all shards of a split, as the name of any of them says."""
    present = sorted(folder.glob("*-of-*.safetensors"))
    count = present[0].stem.rpartition("-")[2] if present else ""
    if not count.isdecimal() or int(count) < 1:
        raise DataError(f"{folder}: has no shards; {_remedy(folder)}")
    return [folder / name for name in _shard_names(int(count))]


def _kind(samples: Samples) -> tuple[Any, ...]:
    """Return what all shards of a split have in common."""
    has_names = samples.names is not None
    kind = samples.inputs.shape[1:], samples.inputs.dtype, samples.class_names, samples.resize
    return *kind, has_names


def _remedy(path: Path) -> str:
    return f"`dvc repro preprocess` writes it, or `dvc pull {path}` fetches it"


def _load_file(path: Path) -> tuple[Samples, Scale]:
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            metadata = json.loads(file.metadata()["card"])
            labels = file.get_tensor("labels")
            class_names = _strings(metadata["class_names"])
            names = None
            if "names" in file.keys():  # noqa: SIM118 - no mapping
                names = _decoded(file.get_tensor("name_ends"), file.get_tensor("names"))
            inputs = _map_array(path, "inputs")
            samples = Samples(inputs, labels, class_names, names, metadata.get("resize"))
    except (OSError, safetensors.SafetensorError, KeyError, TypeError, ValueError) as error:
        reason = "no such file" if isinstance(error, FileNotFoundError) else error
        raise DataError(f"{path}: {reason}; {_remedy(path)}") from None
    return samples, Scale(tuple(metadata.get("mean", ())), tuple(metadata.get("std", ())))


def _header(arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> bytes:
    """Return a safetensors header for these arrays, equal to the library's byte for byte."""
    entries: dict[str, Any] = {"__metadata__": metadata}
    end = 0
    for name, array in arrays.items():
        begin, end = end, end + array.nbytes
        dtype = DTYPES[array.dtype.str]
        entries[name] = {"dtype": dtype, "shape": array.shape, "data_offsets": (begin, end)}
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _map_array(path: Path, name: str) -> np.memmap:
    """Map an array of a safetensors file; the library would read it into memory."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        entry = json.loads(file.read(length))[name]
    dtypes = {name: dtype for dtype, name in DTYPES.items()}
    dtype = np.dtype(dtypes[entry["dtype"]])
    offset = 8 + length + entry["data_offsets"][0]
    return memmap.from_file(path, dtype, offset, tuple(entry["shape"]))


def _strings(names: Sequence[str]) -> tuple[str, ...]:
    return tuple(str(name) for name in names)
