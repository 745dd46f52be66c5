"""Results as files that DVC compares and plots, and that visualize reads without torch."""

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

from retrace import files, paths
from retrace.errors import DataError
from retrace.samples import Samples

History = list[dict[str, float]]
Batch = tuple[np.ndarray, np.ndarray]  # inputs, labels
Content = TypeVar("Content")

GOOD = 0.8  # accuracy that `diagnosis` calls good
GAP = 0.05  # by which training accuracy may be above validation's; twice that where training is not good
RISE = 0.1  # of validation loss above its lowest, as a share of it, that is no noise; below 0.1 nats as a share of that


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
class Grid:
    """What the network says all over a plane: logits (b, a, classes) at the points of x (a,) and y (b,)."""

    x: np.ndarray
    y: np.ndarray
    logits: np.ndarray


@dataclass(frozen=True)
class Views:
    """What can be seen inside a network, in float32; whatever it does not have is None or empty.

    `filters` are the first layer's weights as pictures (n, channels, height, width); `maps` what each convolution,
    in the network's order, makes of the first test sample (channels, height, width); `grid` is for samples with two
    features.
    """

    filters: np.ndarray | None
    maps: Mapping[str, np.ndarray]
    grid: Grid | None


@dataclass(frozen=True, eq=False)
class Results:
    """All that a picture can be drawn from. `samples` is the test part; `steps` are rows of step, learning_rate and
    loss; `batch` is the first of training, as `save_batch` says; `tell` takes a figure of merit by its metric's name.
    """

    history: History
    steps: History
    metrics: Mapping[str, float]
    predictions: Predictions
    samples: Samples
    batch: Batch
    views: Views
    seed: int
    tell: Callable[[str, float], None]

    @cached_property
    def probabilities(self) -> np.ndarray:
        """Of shape (n, classes)."""
        return softmax(self.predictions.logits)

    @property
    def each_against_the_rest(self) -> dict[int, tuple[np.ndarray, np.ndarray]]:
        """By class: which samples are its own (n,), and its probability (n,). Only classes that some samples have
        and others have not.
        """
        labels, given = self.predictions.labels, self.probabilities
        counts = np.bincount(labels, minlength=given.shape[1])
        mixed = np.flatnonzero((counts > 0) & (counts < len(labels)))
        return {int(i): (labels == i, given[:, i]) for i in mixed}


def softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities along the last axis, in float64: near 1, float32 would make equals of what can be ranked."""
    powers = np.exp(logits.astype(np.float64) - logits.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def diagnosis(history: History) -> str:
    """One sentence on under- and overfitting, after the rule of seeds/003: training and validation both bad is
    underfitting, training good and validation bad overfitting.

    In this order: it overfits where validation loss has risen from its lowest by more than `RISE` while training loss
    fell by a tenth, or where training accuracy is further above validation's than `GAP`; it underfits where both
    accuracies are below `GOOD`. The two losses are never compared: training's is what is minimised, of a network in
    motion, with dropout and augmentation; for the same reason the better accuracy says how good training is.
    Accuracy flatters where most samples are of one class.
    """
    best, last = min(history, key=lambda row: row["val_loss"]), history[-1]
    rise = last["val_loss"] - best["val_loss"]
    learns_on = last["train_loss"] < 0.9 * best["train_loss"]
    fitted = max(last["train_accuracy"], last["val_accuracy"])
    gap = last["train_accuracy"] - last["val_accuracy"]
    accuracies = f"accuracy is {last['train_accuracy']:.1%} in training, {last['val_accuracy']:.1%} in validation"
    lowest = f"{best['val_loss']:.3g} (epoch {best['epoch']:.0f})"
    if rise > RISE * max(best["val_loss"], 0.1) and learns_on:
        return (
            f"Overfits: validation loss has risen from {lowest} to {last['val_loss']:.3g} while training loss fell "
            f"from {best['train_loss']:.3g} to {last['train_loss']:.3g}; stop earlier or regularise."
        )
    if gap > (GAP if fitted >= GOOD else 2 * GAP):
        return f"Overfits: {accuracies}; regularise, augment, or use more data."
    if fitted < GOOD:
        falling = len(history) == 1 or last["train_loss"] < 0.98 * history[-2]["train_loss"]
        remedy = "train longer" if falling else "try a larger network or another learning rate"
        return f"Underfits: {accuracies} after epoch {last['epoch']:.0f}; {remedy}."
    return f"Fits well: {accuracies}; lowest validation loss {lowest}."


def save_table(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """`path` is a CSV file with a column a key of the first row."""
    rows = list(rows)
    with files.atomic(path) as unfinished, unfinished.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def _load_table(path: Path) -> History:
    """Rows of numbers, as `save_table` wrote them. Raises DataError where there are none."""
    return _loaded(path, "train", _rows)


def load_history() -> History:
    """A row an epoch. Raises DataError where there is none."""
    return _load_table(paths.HISTORY)


def load_steps() -> History:
    """Rows of step, learning_rate and loss. Raises DataError where there are none."""
    return _load_table(paths.STEPS)


def load_summary() -> str:
    """The network's layers as text. Raises DataError where there are none."""
    return _loaded(paths.SUMMARY, "train", lambda path: path.read_text(encoding="utf-8"))


def save_metrics(metrics: Mapping[str, float]) -> None:
    with files.atomic(paths.METRICS) as unfinished:
        unfinished.write_text(json.dumps(metrics, indent=2) + "\n", encoding="utf-8")


def load_metrics() -> dict[str, float]:
    """What `save_metrics` wrote. Raises DataError where the file is missing or not JSON."""
    return _loaded(paths.METRICS, "evaluate", lambda path: json.loads(path.read_text(encoding="utf-8")))


def save_confusion(labels: np.ndarray, predicted: np.ndarray, class_names: Sequence[str]) -> None:
    """A row a sample: what `dvc plots`' confusion template counts."""
    rows = zip(labels, predicted, strict=True)
    save_table(paths.CONFUSION, ({"actual": class_names[a], "predicted": class_names[p]} for a, p in rows))


def save_predictions(predictions: Predictions) -> None:
    _save(paths.PREDICTIONS, {name: getattr(predictions, name) for name in ("logits", "features", "labels")})


def load_predictions() -> Predictions:
    """What `save_predictions` wrote. Raises DataError where the file is missing or cut short."""
    return _loaded(paths.PREDICTIONS, "evaluate", lambda path: Predictions(**safetensors.numpy.load_file(path)))


def save_batch(inputs: np.ndarray, labels: np.ndarray) -> None:
    """On disk: a training batch as the network sees it, augmented, but before normalisation. `inputs` are images
    (n, channels, height, width) uint8 or features (n, d) float32, `labels` (n,) int64.
    """
    _save(paths.BATCH, {"inputs": inputs, "labels": labels})


def load_batch() -> Batch:
    """What `save_batch` wrote. Raises DataError where the file is missing or cut short."""
    return _loaded(paths.BATCH, "train", _batch)


def save_views(views: Views) -> None:
    arrays = {f"map.{i:04}.{name}": map_ for i, (name, map_) in enumerate(views.maps.items())}  # files have no order
    if views.filters is not None:
        arrays["filters"] = views.filters
    if views.grid is not None:
        arrays |= {f"grid.{name}": array for name, array in vars(views.grid).items()}
    _save(paths.VIEWS, arrays)


def load_views() -> Views:
    """What `save_views` wrote. Raises DataError where the file is missing or cut short."""
    return _loaded(paths.VIEWS, "evaluate", _views)


def _batch(path: Path) -> Batch:
    arrays = safetensors.numpy.load_file(path)
    return arrays["inputs"], arrays["labels"]


def _views(path: Path) -> Views:
    arrays = safetensors.numpy.load_file(path)
    maps = {name.split(".", 2)[2]: arrays[name] for name in sorted(arrays) if name.startswith("map.")}
    grid = {name.removeprefix("grid."): array for name, array in arrays.items() if name.startswith("grid.")}
    return Views(arrays.get("filters"), maps, Grid(**grid) if grid else None)


def _rows(path: Path) -> History:
    with path.open(newline="", encoding="utf-8") as file:
        rows = [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]
    if not rows:
        raise ValueError("no row in it")
    return rows


def _save(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    with files.atomic(path) as unfinished:
        contiguous = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
        safetensors.numpy.save_file(contiguous, unfinished)


def _loaded(path: Path, stage: str, read: Callable[[Path], Content]) -> Content:
    """What `read` makes of `path`. Raises DataError where it cannot: `stage` makes the file anew."""
    try:
        return read(path)
    except (OSError, ValueError, TypeError, LookupError, safetensors.SafetensorError) as error:
        raise DataError(f"{path}: {error}; `dvc repro {stage}` makes it") from None
