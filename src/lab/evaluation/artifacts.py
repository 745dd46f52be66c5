"""The files that evaluate writes: DVC compares and plots them, visualize reads them."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import safetensors
import safetensors.numpy

from lab import paths, stage_files
from lab.data.samples import Samples
from lab.evaluation import metrics
from lab.evaluation.metrics import ClassScore
from retrace.system import files

MAX_PROBABILITIES = 20  # classes that have a column each in predictions.csv


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
class HeatMaps:
    """Grad-CAM: indices of test samples (n,), and their heat maps (n, height, width) in 0..1.

    The misclassified samples come first, worst first; then correct ones, by class. `size` is the
    height and width, in pixels, of the images' center that the network sees.
    """

    samples: np.ndarray
    maps: np.ndarray
    size: np.ndarray


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
    heat: HeatMaps | None = None


def save_metrics(metrics: Mapping[str, float]) -> None:
    """Write metrics.json, which DVC compares."""
    with files.atomic(paths.METRICS) as unfinished:
        unfinished.write_text(json.dumps(metrics, indent=2) + "\n", encoding="utf-8")


def load_metrics() -> dict[str, float]:
    """Load metrics.json. Raises DataError if the file is missing or not JSON."""
    return stage_files.load(paths.METRICS, "evaluate", _read_json)


def save_classes(classes: Iterable[ClassScore]) -> None:
    """Write a row for each class."""
    stage_files.save_table(paths.CLASSES, map(asdict, classes))


def save_confusion(labels: np.ndarray, predicted: np.ndarray, class_names: Sequence[str]) -> None:
    """Write a row for each sample, which the confusion template of `dvc plots` counts."""
    rows = (
        {"actual": class_names[label], "predicted": class_names[other]}
        for label, other in zip(labels, predicted, strict=True)
    )
    stage_files.save_table(paths.CONFUSION, rows)


def save_prediction_table(samples: Samples, predictions: Predictions) -> None:
    """Write a row for each test sample: predictions.csv.

    It has the sample's file or number, its label, the predicted class and its probability, and the
    probabilities of all classes if they are few.
    """
    names = samples.class_names
    listed = names if len(names) <= MAX_PROBABILITIES else ()
    probabilities = metrics.softmax(predictions.logits)
    stage_files.save_table(
        paths.PREDICTION_TABLE,
        (
            {
                "sample": samples.name(i),
                "label": names[label],
                "predicted": names[predicted],
                "probability": f"{row[predicted]:.6g}",
            }
            | {f"probability.{name}": f"{p:.6g}" for name, p in zip(listed, row, strict=False)}
            for i, (label, predicted, row) in enumerate(
                zip(predictions.labels, predictions.predicted, probabilities, strict=True)
            )
        ),
    )


def save_predictions(predictions: Predictions) -> None:
    """Write the predictions of the test split."""
    stage_files.save_arrays(paths.PREDICTIONS, vars(predictions))


def load_predictions() -> Predictions:
    """Load the predictions. Raises DataError if the file is missing or truncated."""
    return stage_files.load(paths.PREDICTIONS, "evaluate", _read_predictions)


def save_views(views: NetworkViews) -> None:
    """Write the arrays from inside the network; numbered names keep the order of the maps."""
    arrays = {f"map.{i:04}.{name}": map_ for i, (name, map_) in enumerate(views.maps.items())}
    if views.filters is not None:
        arrays["filters"] = views.filters
    for prefix, group in (("grid", views.grid), ("heat", views.heat)):
        if group is not None:
            arrays |= {f"{prefix}.{name}": array for name, array in vars(group).items()}
    stage_files.save_arrays(paths.VIEWS, arrays)


def load_views() -> NetworkViews:
    """Load the arrays from inside the network. Raises DataError as `load_predictions` does."""
    return stage_files.load(paths.VIEWS, "evaluate", _read_views)


def _read_json(path: Path) -> dict[str, float]:
    return json.loads(path.read_text(encoding="utf-8"))


def _read_predictions(path: Path) -> Predictions:
    return Predictions(**safetensors.numpy.load_file(path))


def _read_views(path: Path) -> NetworkViews:
    arrays = safetensors.numpy.load_file(path)
    names = [name for name in sorted(arrays) if name.startswith("map.")]
    maps = {name.split(".", 2)[2]: arrays[name] for name in names}
    grid = _group(arrays, "grid.")
    heat = _group(arrays, "heat.")
    return NetworkViews(
        arrays.get("filters"),
        maps,
        Grid(**grid) if grid else None,
        HeatMaps(**heat) if heat else None,
    )


def _group(arrays: Mapping[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    """Return the arrays whose names begin with `prefix`, by the rest of their names."""
    return {
        name.removeprefix(prefix): array
        for name, array in arrays.items()
        if name.startswith(prefix)
    }
