"""Results as files: DVC compares and plots them, and visualize reads them without torch."""

import csv
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import safetensors
import safetensors.numpy

from lab import paths
from lab.data.samples import Samples
from retrace.errors import DataError
from retrace.system import files

History = list[dict[str, float]]
Batch = tuple[np.ndarray, np.ndarray]  # inputs, labels
Content = TypeVar("Content")

# Thresholds of `diagnosis`.
GOOD = 0.8  # accuracy
GAP = 0.05  # of training accuracy above validation accuracy; doubled where training is not good
RISE = 0.1  # of validation loss above its minimum, as a share of it, or of 0.1 nats if it is less


@dataclass(frozen=True)
class Predictions:
    """The test samples in order: logits (n, classes), features (n, f), labels (n,)."""

    logits: np.ndarray
    features: np.ndarray
    labels: np.ndarray

    @property
    def predicted(self) -> np.ndarray:
        return self.logits.argmax(axis=1)


@dataclass(frozen=True)
class Grid:
    """Logits (b, a, classes) at the points of a plane, with x (a,) and y (b,)."""

    x: np.ndarray
    y: np.ndarray
    logits: np.ndarray


@dataclass(frozen=True)
class NetworkViews:
    """Arrays from inside a network, in float32; what it does not have is None or empty.

    `filters` are the first layer's weights as images (n, channels, height, width). `maps` are the
    feature maps (channels, height, width) of the first test sample, by convolution, in the
    network's order. `grid` is for samples with two features.
    """

    filters: np.ndarray | None
    maps: Mapping[str, np.ndarray]
    grid: Grid | None


@dataclass(frozen=True, eq=False)
class Results:
    """The input of every figure.

    `samples` is the test split. `steps` are rows of step, learning_rate and loss. `batch` is the
    first training batch, as `save_batch` describes. `log_metric` takes a metric's name and value.
    """

    history: History
    steps: History
    metrics: Mapping[str, float]
    predictions: Predictions
    samples: Samples
    batch: Batch
    views: NetworkViews
    seed: int
    log_metric: Callable[[str, float], None]

    @cached_property
    def probabilities(self) -> np.ndarray:
        """The predicted probabilities (n, classes)."""
        return softmax(self.predictions.logits)

    @property
    def one_vs_rest(self) -> dict[int, tuple[np.ndarray, np.ndarray]]:
        """For each class, the samples that belong to it (n,) bool, and its probability (n,).

        Classes that no sample or every sample belongs to are left out.
        """
        labels = self.predictions.labels
        counts = np.bincount(labels, minlength=self.probabilities.shape[1])
        mixed = np.flatnonzero((counts > 0) & (counts < len(labels)))
        return {int(i): (labels == i, self.probabilities[:, i]) for i in mixed}


def softmax(logits: np.ndarray) -> np.ndarray:
    """Compute probabilities along the last axis, in float64: float32 has too few values near 1."""
    powers = np.exp(logits.astype(np.float64) - logits.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def diagnosis(history: History) -> str:
    """Return one sentence on under- and overfitting, by the rule of tutorial 003.

    There, training and validation both bad is underfitting, training good and validation bad is
    overfitting. In this order:

    - Overfitting: validation loss has risen from its minimum by more than `RISE` while training
      loss fell by a tenth; or training accuracy is above validation accuracy by more than `GAP`.
    - Underfitting: both accuracies are below `GOOD`.

    Training loss and validation loss are never compared with each other: training loss is a mean
    while the weights move, with dropout and augmentation. For the same reason the better of the
    two accuracies measures the fit. Accuracy is too optimistic where one class dominates.
    """
    best = min(history, key=lambda row: row["val_loss"])
    last = history[-1]
    rise = last["val_loss"] - best["val_loss"]
    learns_on = last["train_loss"] < 0.9 * best["train_loss"]
    fitted = max(last["train_accuracy"], last["val_accuracy"])
    gap = last["train_accuracy"] - last["val_accuracy"]
    training, validation = f"{last['train_accuracy']:.1%}", f"{last['val_accuracy']:.1%}"
    accuracies = f"accuracy is {training} in training, {validation} in validation"
    lowest = f"{best['val_loss']:.3g} (epoch {best['epoch']:.0f})"
    if rise > RISE * max(best["val_loss"], 0.1) and learns_on:
        return (
            f"Overfits: validation loss has risen from {lowest} to {last['val_loss']:.3g} while "
            f"training loss fell from {best['train_loss']:.3g} to {last['train_loss']:.3g}; "
            f"stop earlier or regularize."
        )
    if gap > (GAP if fitted >= GOOD else 2 * GAP):
        return f"Overfits: {accuracies}; regularize, augment, or use more data."
    if fitted < GOOD:
        falling = len(history) == 1 or last["train_loss"] < 0.98 * history[-2]["train_loss"]
        remedy = "train longer" if falling else "try a larger network or another learning rate"
        return f"Underfits: {accuracies} after epoch {last['epoch']:.0f}; {remedy}."
    return f"Fits well: {accuracies}; lowest validation loss {lowest}."


def save_table(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write a CSV file with a column for each key of the first row."""
    rows = list(rows)
    with (
        files.atomic(path) as unfinished,
        unfinished.open("w", newline="", encoding="utf-8") as file,
    ):
        writer = csv.DictWriter(file, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def load_history() -> History:
    """Load the metrics of each epoch. Raises DataError where there are none."""
    return _load(paths.HISTORY, "train", _read_table)


def load_steps() -> History:
    """Load rows of step, learning_rate and loss. Raises DataError where there are none."""
    return _load(paths.STEPS, "train", _read_table)


def load_summary() -> str:
    """Load the network's layers as text. Raises DataError where there are none."""
    return _load(paths.SUMMARY, "train", lambda path: path.read_text(encoding="utf-8"))


def save_metrics(metrics: Mapping[str, float]) -> None:
    """Write metrics.json, which DVC compares."""
    with files.atomic(paths.METRICS) as unfinished:
        unfinished.write_text(json.dumps(metrics, indent=2) + "\n", encoding="utf-8")


def load_metrics() -> dict[str, float]:
    """Load metrics.json. Raises DataError where the file is missing or not JSON."""
    return _load(paths.METRICS, "evaluate", _read_json)


def save_confusion(labels: np.ndarray, predicted: np.ndarray, class_names: Sequence[str]) -> None:
    """Write a row for each sample, which the confusion template of `dvc plots` counts."""
    rows = (
        {"actual": class_names[label], "predicted": class_names[other]}
        for label, other in zip(labels, predicted, strict=True)
    )
    save_table(paths.CONFUSION, rows)


def save_predictions(predictions: Predictions) -> None:
    """Write the predictions of the test split."""
    _save(paths.PREDICTIONS, vars(predictions))


def load_predictions() -> Predictions:
    """Load the predictions. Raises DataError where the file is missing or truncated."""
    return _load(paths.PREDICTIONS, "evaluate", _read_predictions)


def save_batch(inputs: np.ndarray, labels: np.ndarray) -> None:
    """Write a training batch as the network sees it: augmented, before normalization.

    `inputs` are images (n, channels, height, width) uint8 or features (n, d) float32; `labels` are
    (n,) int64.
    """
    _save(paths.BATCH, {"inputs": inputs, "labels": labels})


def load_batch() -> Batch:
    """Load the training batch. Raises DataError where the file is missing or truncated."""
    return _load(paths.BATCH, "train", _read_batch)


def save_views(views: NetworkViews) -> None:
    """Write the arrays from inside the network; numbers keep the order of the maps."""
    arrays = {f"map.{i:04}.{name}": map_ for i, (name, map_) in enumerate(views.maps.items())}
    if views.filters is not None:
        arrays["filters"] = views.filters
    if views.grid is not None:
        arrays |= {f"grid.{name}": array for name, array in vars(views.grid).items()}
    _save(paths.VIEWS, arrays)


def load_results(samples: Samples, seed: int, log_metric: Callable[[str, float], None]) -> Results:
    """Load what train and evaluate saved. Raises DataError if a file is missing or malformed."""
    return Results(
        history=load_history(),
        steps=load_steps(),
        metrics=load_metrics(),
        predictions=load_predictions(),
        samples=samples,
        batch=load_batch(),
        views=load_views(),
        seed=seed,
        log_metric=log_metric,
    )


def load_views() -> NetworkViews:
    """Load the arrays from inside the network. Raises DataError as `load_batch` does."""
    return _load(paths.VIEWS, "evaluate", _read_views)


def _read_json(path: Path) -> dict[str, float]:
    return json.loads(path.read_text(encoding="utf-8"))


def _read_predictions(path: Path) -> Predictions:
    return Predictions(**safetensors.numpy.load_file(path))


def _read_batch(path: Path) -> Batch:
    arrays = safetensors.numpy.load_file(path)
    return arrays["inputs"], arrays["labels"]


def _read_views(path: Path) -> NetworkViews:
    arrays = safetensors.numpy.load_file(path)
    names = [name for name in sorted(arrays) if name.startswith("map.")]
    maps = {name.split(".", 2)[2]: arrays[name] for name in names}
    grid = {
        name.removeprefix("grid."): array
        for name, array in arrays.items()
        if name.startswith("grid.")
    }
    return NetworkViews(arrays.get("filters"), maps, Grid(**grid) if grid else None)


def _read_table(path: Path) -> History:
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        rows = [{name: float(value) for name, value in row.items()} for row in reader]
    if not rows:
        raise ValueError("it has no rows")
    return rows


def _save(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    with files.atomic(path) as unfinished:
        contiguous = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
        safetensors.numpy.save_file(contiguous, unfinished)


def _load(path: Path, stage: str, read: Callable[[Path], Content]) -> Content:
    """Read a file. Raises DataError, which names the stage that writes it, where that fails."""
    try:
        return read(path)
    except (OSError, ValueError, TypeError, LookupError, safetensors.SafetensorError) as error:
        raise DataError(f"{path}: {error}; `dvc repro {stage}` writes it") from None
