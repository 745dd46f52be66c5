"""Suspicious labels: held-out samples whose label the network contradicts with confidence.

Confident learning (Northcutt, Jiang and Chuang 2021, arXiv:1911.00068). The threshold of a class is
the mean probability that the network gives to it, over the samples with that label. A sample is
suspicious if the network predicts another class than the label, with at least that class's
threshold. No sample may have been trained on.
"""

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from lab import paths, stage_files
from lab.data.samples import Samples
from retrace.system import files

BLOCK = 4096  # samples


class Suspicious(NamedTuple):
    """A sample of a split, by its number there, with its label and the predicted class.

    `probability` is that of the predicted class; `margin` is by how much it exceeds the label's.
    """

    split: str
    number: int
    sample: str
    label: str
    predicted: str
    probability: float
    margin: float


class Confidence(NamedTuple):
    """Of each sample, the predicted class, and the probabilities of it and of the label (n,)."""

    predicted: np.ndarray
    of_predicted: np.ndarray
    of_label: np.ndarray


def find(splits: Mapping[str, tuple[Samples, np.ndarray]]) -> list[Suspicious]:
    """Return the suspicious samples of held-out splits, given their logits (n, classes).

    Those with the largest margin come first.
    """
    confidences = {
        name: confidence(logits, samples.labels) for name, (samples, logits) in splits.items()
    }
    labels = np.concatenate([samples.labels for samples, _ in splits.values()])
    of_label = np.concatenate([each.of_label for each in confidences.values()])
    n_classes = len(next(iter(splits.values()))[0].class_names)
    limits = thresholds(of_label, labels, n_classes)
    suspicious = []
    for name, (samples, _) in splits.items():
        own = confidences[name]
        is_certain = own.of_predicted >= limits[own.predicted]
        margins = own.of_predicted - own.of_label
        for i in np.flatnonzero(is_certain & (own.predicted != samples.labels)).tolist():
            predicted = samples.class_names[own.predicted[i]]
            numbers = (float(own.of_predicted[i]), float(margins[i]))
            suspicious.append(
                Suspicious(name, i, samples.name(i), samples.label(i), predicted, *numbers)
            )
    return sorted(suspicious, key=lambda each: -each.margin)


def thresholds(of_label: np.ndarray, labels: np.ndarray, n_classes: int) -> np.ndarray:
    """Return the mean of `of_label` by label (n_classes,); infinity for a class without samples."""
    counts = np.bincount(labels, minlength=n_classes)
    sums = np.bincount(labels, of_label, minlength=n_classes)
    return np.where(counts > 0, sums / np.maximum(counts, 1), np.inf)


def confidence(logits: np.ndarray, labels: np.ndarray) -> Confidence:
    """Return predicted classes and probabilities, in float64, a block of samples at a time."""
    of_predicted = np.empty(len(logits))
    of_label = np.empty(len(logits))
    for first in range(0, len(logits), BLOCK):
        block = slice(first, first + BLOCK)
        shifted = logits[block].astype(np.float64)
        shifted -= shifted.max(axis=1, keepdims=True)
        totals = np.exp(shifted).sum(axis=1)
        of_predicted[block] = 1 / totals
        own = np.take_along_axis(shifted, labels[block, np.newaxis], axis=1)[:, 0]
        of_label[block] = np.exp(own) / totals
    return Confidence(logits.argmax(axis=1), of_predicted, of_label)


def save(suspicious: list[Suspicious]) -> None:
    """Write a row for each sample."""
    with (
        files.atomic(paths.SUSPICIOUS) as unfinished,
        unfinished.open("w", newline="", encoding="utf-8") as file,
    ):
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(Suspicious._fields)
        writer.writerows(suspicious)


def load() -> list[Suspicious]:
    """Load the rows. Raises DataError if the file is missing or malformed."""
    return stage_files.load(paths.SUSPICIOUS, "evaluate", _read)


def _read(path: Path) -> list[Suspicious]:
    with path.open(newline="", encoding="utf-8") as file:
        return [
            Suspicious(
                row["split"],
                int(row["number"]),
                row["sample"],
                row["label"],
                row["predicted"],
                float(row["probability"]),
                float(row["margin"]),
            )
            for row in csv.DictReader(file)
        ]
