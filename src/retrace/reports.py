"""Results as files that DVC compares and plots, and that visualize reads without torch."""

import csv
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from retrace import paths
from retrace.errors import DataError
from retrace.samples import Samples

History = list[dict[str, float]]


@dataclass(frozen=True)
class Predictions:
    """Of each test sample, in the part's order: logits (n, classes), features (n, f), labels (n,)."""

    logits: np.ndarray
    features: np.ndarray
    labels: np.ndarray

    @property
    def predicted(self) -> np.ndarray:
        return self.logits.argmax(axis=1)


@dataclass(frozen=True)
class Results:
    """All that a picture can be drawn from; `samples` is the test part."""

    history: History
    metrics: Mapping[str, float]
    predictions: Predictions
    samples: Samples
    seed: int

    @property
    def probabilities(self) -> np.ndarray:
        """Of shape (n, classes): the softmax of the logits."""
        powers = np.exp(self.predictions.logits - self.predictions.logits.max(axis=1, keepdims=True))
        return powers / powers.sum(axis=1, keepdims=True)


def save_table(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """`path` is a CSV file with a column a key of the first row."""
    rows = list(rows)
    with paths.atomic(path) as unfinished, unfinished.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def load_history(path: Path = paths.HISTORY) -> History:
    """A row an epoch, as `save_table` wrote it. Raises DataError where there is none."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]
    except (OSError, ValueError, TypeError) as error:
        raise DataError(f"{path}: {error}; `dvc repro train` makes it") from None
    if not rows:
        raise DataError(f"{path}: no epoch in it; `dvc repro train` makes it")
    return rows


def save_metrics(metrics: Mapping[str, float]) -> None:
    with paths.atomic(paths.METRICS) as unfinished:
        unfinished.write_text(json.dumps(metrics, indent=2) + "\n", encoding="utf-8")


def load_metrics() -> dict[str, float]:
    """What `save_metrics` wrote. Raises DataError where the file is missing or not JSON."""
    try:
        return json.loads(paths.METRICS.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{paths.METRICS}: {error}; `dvc repro evaluate` makes it") from None


def save_confusion(labels: np.ndarray, predicted: np.ndarray, class_names: Sequence[str]) -> None:
    """A row a sample: what `dvc plots`' confusion template counts."""
    rows = zip(labels, predicted, strict=True)
    save_table(paths.CONFUSION, ({"actual": class_names[a], "predicted": class_names[p]} for a, p in rows))


def save_predictions(predictions: Predictions) -> None:
    arrays = {name: np.ascontiguousarray(getattr(predictions, name)) for name in ("logits", "features", "labels")}
    with paths.atomic(paths.PREDICTIONS) as unfinished:
        safetensors.numpy.save_file(arrays, unfinished)


def load_predictions() -> Predictions:
    """What `save_predictions` wrote. Raises DataError where the file is missing or cut short."""
    try:
        return Predictions(**safetensors.numpy.load_file(paths.PREDICTIONS))
    except (OSError, safetensors.SafetensorError, TypeError) as error:
        raise DataError(f"{paths.PREDICTIONS}: {error}; `dvc repro evaluate` makes it") from None
