"""The parts of a data set as files: one packed file each, no pickle."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors

from retrace import files, memmap
from retrace.errors import DataError
from retrace.samples import Samples

KINDS = {"|u1": "U8", "<f4": "F32", "<i8": "I64"}  # numpy's names and those of safetensors


@dataclass(frozen=True)
class Scale:
    """What normalising subtracts and divides by, a number a channel (0..255) or a feature."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


def scale(samples: Samples) -> Scale:
    """Mean and standard deviation by channel, or by feature; what is constant gets 1 to divide by."""
    if not samples.are_images:
        mean, std = samples.inputs.mean(axis=0, dtype=np.float64), samples.inputs.std(axis=0, dtype=np.float64)
        return Scale(tuple(mean.tolist()), tuple(np.where(std > 0, std, 1.0).tolist()))
    mean, std, values = [], [], np.arange(256)
    for channel in np.moveaxis(samples.inputs, 1, 0):
        # An image at a time: numpy counts in a copy eight times as large.
        counts = sum(np.bincount(image.ravel(), minlength=256) for image in channel) / channel.size
        mean.append(float(counts @ values))
        std.append(float(np.sqrt(counts @ (values - mean[-1]) ** 2)) or 1.0)
    return Scale(tuple(mean), tuple(std))


def save(path: Path, samples: Samples, scale: Scale | None = None) -> None:
    """`path` holds `samples`, and the training part its `scale`; equal samples give equal bytes. So a test part is the
    same file, whatever the training part is.
    """
    card: dict[str, Any] = {"class_names": samples.class_names}
    card |= {"mean": scale.mean, "std": scale.std} if scale else {}
    card |= {"resize": samples.resize} if samples.resize else {}
    header = _header({"labels": samples.labels, "inputs": samples.inputs}, {"card": json.dumps(card)})
    size = len(header) + samples.labels.nbytes + samples.inputs.nbytes
    with files.atomic(path, size) as unfinished, unfinished.open("wb") as file:
        file.write(header)
        file.write(samples.labels.tobytes())
        for block in memmap.blocks(len(samples), samples.inputs[:1].nbytes):  # safetensors would copy all at once
            file.write(samples.inputs[block].tobytes())


def load(path: Path) -> tuple[Samples, Scale]:
    """What `save` wrote, with an empty scale where it wrote none; the inputs stay in the file, and are read when they
    are used. Raises DataError where the file is missing or cut short.
    """
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            card = json.loads(file.metadata()["card"])
            inputs, labels = _mapped(path, "inputs"), file.get_tensor("labels")
            samples = Samples(inputs, labels, _strings(card["class_names"]), resize=card.get("resize"))
    except (OSError, safetensors.SafetensorError, KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path}: {error}; `dvc repro preprocess` makes it") from None
    return samples, Scale(tuple(card.get("mean", ())), tuple(card.get("std", ())))


def _header(arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> bytes:
    """Of a safetensors file with these arrays one after the other, as that library writes it."""
    said: dict[str, Any] = {"__metadata__": metadata}
    end = 0
    for name, array in arrays.items():
        begin, end = end, end + array.nbytes
        said[name] = {"dtype": KINDS[array.dtype.str], "shape": array.shape, "data_offsets": (begin, end)}
    text = json.dumps(said, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _mapped(path: Path, name: str) -> np.ndarray:
    """An array of a safetensors file, which that library would read into memory."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        said = json.loads(file.read(length))[name]
    kind = {name: kind for kind, name in KINDS.items()}[said["dtype"]]
    return memmap.from_file(path, np.dtype(kind), 8 + length + said["data_offsets"][0], tuple(said["shape"]))


def _strings(names: Sequence[str]) -> tuple[str, ...]:
    return tuple(str(name) for name in names)
