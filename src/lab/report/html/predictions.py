"""Predictions on the test split: scores by class, the worst errors, and t-SNE."""

from dataclasses import dataclass

import numpy as np

from lab.report.figures import confusion_matrix, mistakes, style, tsne
from lab.report.figures import thresholds as threshold_figure
from lab.report.figures.thresholds import Threshold
from lab.report.html import images
from lab.report.html.images import Sheet
from lab.report.results import Results

ROWS = 20  # of a table, at most
LARGE = 128  # pixels of a misclassified image's longer side, at most
FEATURES = 8  # of a sample that is not an image, at most
POINTS = 2000  # in the t-SNE plot, at most
PLOT = (640, 460)  # width and height, in SVG units
EDGE = 14  # of the plot, without points


@dataclass(frozen=True)
class Class:
    """Precision, recall and F1 in 0..1; 0 if a class is never predicted, or has no samples."""

    name: str
    n_samples: int
    precision: float
    recall: float
    f1: float


@dataclass(frozen=True)
class Matrix:
    """Counts by true class (rows) and predicted class (columns), with shades in 0..1.

    `are_named` is true if the names are few enough to be written next to it.
    """

    counts: list[list[int]]
    shades: list[list[float]]
    cells: list[tuple[int, int, float]]  # row, column and shade of those that are not 0
    are_named: bool


@dataclass(frozen=True)
class Confusion:
    """A pair of classes that are confused."""

    true: str
    predicted: str
    n: int
    share: float  # of the true class


@dataclass(frozen=True)
class Misclassified:
    """A misclassified test sample."""

    sample: int  # its index in the test split
    true: str
    predicted: str
    probability: float  # of the predicted class
    image: str  # a data: URL; empty if the sample is not an image
    features: list[float]  # the first few, if it is not an image


@dataclass(frozen=True)
class Thresholds:
    """The classes with the lowest recall; the counts are of all classes."""

    precision: float
    rows: list[Threshold]
    n_classes: int
    n_accepted: int
    n_correct: int


@dataclass(frozen=True)
class Point:
    """A test sample in the t-SNE plot."""

    x: float
    y: float
    label: int
    is_wrong: bool
    text: str


@dataclass(frozen=True)
class Plot:
    """Test samples in their order; `sheet` has their images in the same order."""

    points: list[Point]
    n: int  # number of embedded samples; `points` are the first of them
    source: str
    divergence: float
    sheet: Sheet | None
    width: int
    height: int
    are_written: bool  # whether a point is drawn as its class's name
    present: list[int]  # classes


def n_wrong(results: Results) -> int:
    """Count the misclassified test samples."""
    return int(np.count_nonzero(results.predictions.predicted != results.predictions.labels))


def classes(results: Results) -> list[Class]:
    """Return the scores of each class, the lowest F1 first."""
    counts = confusion_matrix.confusion_counts(results)
    correct = np.diag(counts)
    actual = counts.sum(axis=1)
    predicted = counts.sum(axis=0)
    precision = correct / np.maximum(predicted, 1)
    recall = correct / np.maximum(actual, 1)
    f1 = 2 * correct / np.maximum(actual + predicted, 1)
    columns = [column.tolist() for column in (actual, precision, recall, f1)]
    rows = zip(results.samples.class_names, *columns, strict=True)
    return sorted((Class(*row) for row in rows), key=lambda each: each.f1)


def matrix(results: Results) -> Matrix:
    """Return the counts with their shades, as figures/confusion_matrix.py draws them."""
    counts = confusion_matrix.confusion_counts(results)
    shares, darkest = confusion_matrix.row_shares(counts)
    shades = np.minimum(shares / darkest, 1).round(2)
    cells = [
        (int(row), int(column), float(shades[row, column])) for row, column in np.argwhere(counts)
    ]
    return Matrix(counts.tolist(), shades.tolist(), cells, len(counts) <= style.LEGIBLE)


def confusions(results: Results) -> list[Confusion]:
    """Return the pairs of classes that are confused most often."""
    counts = confusion_matrix.confusion_counts(results)
    totals = counts.sum(axis=1)
    np.fill_diagonal(counts, 0)
    names = results.samples.class_names
    ranked = np.argsort(-counts, axis=None, kind="stable")[:ROWS]
    pairs = [divmod(int(index), len(names)) for index in ranked]
    return [
        Confusion(names[a], names[b], int(counts[a, b]), float(counts[a, b] / totals[a]))
        for a, b in pairs
        if counts[a, b]
    ]


def worst(results: Results, *, rows: int, columns: int) -> list[Misclassified]:
    """Return as many as figures/mistakes.py draws, those with the largest loss first."""
    samples = results.samples
    predictions = results.predictions
    listed = []
    for i in mistakes.worst(results)[: rows * columns].tolist():
        predicted = int(predictions.predicted[i])
        listed.append(
            Misclassified(
                sample=i,
                true=samples.class_names[predictions.labels[i]],
                predicted=samples.class_names[predicted],
                probability=float(results.probabilities[i, predicted]),
                image=images.encode(samples.inputs[i], LARGE) if samples.are_images else "",
                features=[] if samples.are_images else samples.inputs[i][:FEATURES].tolist(),
            )
        )
    return listed


def thresholds(results: Results, *, precision: float, classes: int) -> Thresholds:
    """Return the thresholds that figures/thresholds.py draws, and what they accept."""
    thresholds = threshold_figure.by_class(results, precision)
    return Thresholds(
        precision=precision,
        rows=thresholds[:classes],
        n_classes=len(thresholds),
        n_accepted=sum(each.n_accepted for each in thresholds),
        n_correct=sum(each.n_correct for each in thresholds),
    )


def tsne_plot(results: Results, *, of: str, samples: int, perplexity: float) -> Plot | None:
    """Return the embedding that figures/tsne.py draws, or None if it draws none."""
    embedded = tsne.embedding(results, of, samples, perplexity)
    if isinstance(embedded, str):
        return None
    n = min(POINTS, len(embedded.points))
    names = results.samples.class_names
    labels = results.predictions.labels
    predicted = results.predictions.predicted
    confidence = results.probabilities.max(axis=1)
    points = []
    for i, (x, y) in enumerate(_fit(embedded.points)[:n].tolist()):
        predicted_as = f"predicted {names[predicted[i]]} ({confidence[i]:.0%})"
        text = f"true {names[labels[i]]}, {predicted_as}; test sample {i:,}"
        points.append(Point(x, y, int(labels[i]), bool(labels[i] != predicted[i]), text))
    present = np.unique(labels[:n]).tolist()
    are_images = results.samples.are_images
    return Plot(
        points,
        len(embedded.points),
        embedded.source,
        embedded.divergence,
        images.sheet(results.samples.inputs[:n]) if are_images else None,
        *PLOT,
        max(map(len, names)) <= 2,
        present if len(present) <= style.LEGIBLE else [],
    )


def _fit(points: np.ndarray) -> np.ndarray:
    """Scale points (n, 2) to the plot, in tenths of a unit."""
    low = points.min(axis=0)
    extent = np.ptp(points, axis=0)
    shares = (points - low) / np.where(extent > 0, extent, 1)
    shares[:, 1] = 1 - shares[:, 1]
    size = np.array(PLOT)
    return (EDGE + shares * (size - 2 * EDGE)).round(1)
