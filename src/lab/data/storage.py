"""The splits of a data set as files: one packed safetensors file per split."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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


def save(path: Path, samples: Samples, scale: Scale | None = None) -> None:
    """Write `samples`, and for the training split its `scale`; equal samples give equal bytes."""
    metadata: dict[str, Any] = {"class_names": samples.class_names}
    if scale:
        metadata |= {"mean": scale.mean, "std": scale.std}
    if samples.resize:
        metadata["resize"] = samples.resize
    arrays = {"labels": samples.labels, "inputs": samples.inputs}
    header = _header(arrays, {"card": json.dumps(metadata)})
    size = len(header) + samples.labels.nbytes + samples.inputs.nbytes
    with files.atomic(path, size) as unfinished, unfinished.open("wb") as file:
        file.write(header)
        file.write(samples.labels.tobytes())
        # safetensors would copy all inputs at once.
        for block in memmap.blocks(len(samples), samples.inputs[:1].nbytes):
            file.write(samples.inputs[block].tobytes())


def load(path: Path) -> tuple[Samples, Scale]:
    """Load a split; its scale is empty if none was saved.

    The inputs stay in the file, and are read when they are used. Raises DataError if the file is
    missing or truncated.
    """
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            metadata = json.loads(file.metadata()["card"])
            labels = file.get_tensor("labels")
            names = _strings(metadata["class_names"])
            inputs = _map_array(path, "inputs")
            samples = Samples(inputs, labels, names, resize=metadata.get("resize"))
    except (OSError, safetensors.SafetensorError, KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path}: {error}; `dvc repro preprocess` writes it") from None
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


def _map_array(path: Path, name: str) -> np.ndarray:
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
