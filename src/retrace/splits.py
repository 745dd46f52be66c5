"""Which sample belongs to which part, and the parts as files: one packed file each, no pickle."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import safetensors
import safetensors.numpy

from retrace import paths
from retrace.errors import DataError
from retrace.samples import Samples


@dataclass(frozen=True)
class Scale:
    """What normalising subtracts and divides by, a number a channel, in units of a raw pixel (0..255)."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


def deal(
    training: Samples, test: Samples | None, validation_fraction: float, test_fraction: float, seed: int
) -> tuple[Samples, Samples, Samples]:
    """Train, validation and test, each with every class in the same proportion; the order is the data set's.

    Validation is taken from `training`; so is the test part, first, where the data set has none of its own.
    """
    if test is None:
        training, test = _stratified(training, test_fraction, seed)
    train, validation = _stratified(training, validation_fraction, seed)
    return train, validation, test


def _stratified(samples: Samples, fraction: float, seed: int) -> tuple[Samples, Samples]:
    from sklearn.model_selection import train_test_split

    everything = np.arange(len(samples))
    try:
        kept, taken = train_test_split(everything, test_size=fraction, random_state=seed, stratify=samples.labels)
    except ValueError as error:
        raise DataError(f"{fraction} of {len(samples)} samples can't be set apart class by class: {error}") from None
    return samples.take(np.sort(kept)), samples.take(np.sort(taken))


def scale(samples: Samples) -> Scale:
    """Mean and standard deviation of all pixels, by channel; a constant channel gets 1 to divide by."""
    mean, std = [], []
    for channel in np.moveaxis(samples.images, 1, 0):
        counts = np.bincount(channel.ravel(), minlength=256) / channel.size
        values = np.arange(256)
        mean.append(float(counts @ values))
        std.append(float(np.sqrt(counts @ (values - mean[-1]) ** 2)) or 1.0)
    return Scale(tuple(mean), tuple(std))


def save(path: Path, samples: Samples, scale: Scale) -> None:
    """`path` holds `samples` and the training part's `scale`; equal samples give equal bytes."""
    # One metadata key: safetensors writes several in random order.
    card = json.dumps({"class_names": samples.class_names, "mean": scale.mean, "std": scale.std})
    with paths.atomic(path) as unfinished:
        arrays = {"images": np.ascontiguousarray(samples.images), "labels": samples.labels}
        safetensors.numpy.save_file(arrays, unfinished, metadata={"card": card})


def load(path: Path) -> tuple[Samples, Scale]:
    """What `save` wrote. Raises DataError where the file is missing or cut short."""
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            card = json.loads(file.metadata()["card"])
            samples = Samples(file.get_tensor("images"), file.get_tensor("labels"), _strings(card["class_names"]))
    except (OSError, safetensors.SafetensorError, KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path}: {error}; `dvc repro preprocess` makes it") from None
    return samples, Scale(tuple(card["mean"]), tuple(card["std"]))


def _strings(names: Sequence[str]) -> tuple[str, ...]:
    return tuple(str(name) for name in names)
