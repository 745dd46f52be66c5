"""What the test samples were taken for: class by class, the worst mistakes, and a map of them."""

from dataclasses import dataclass

import numpy as np

from retrace.figures import confusion_matrix, mistakes, style, tsne
from retrace.pages import images
from retrace.pages.images import Sheet
from retrace.reports import Results

ROWS = 20  # of a table, at most
LARGE = 128  # pixels of a mistake's longer side, at most
FEATURES = 8  # of a sample that is no image, at most
POINTS = 2000  # on a map, at most
MAP = (640, 460)  # width and height, in units of the drawing
EDGE = 14  # of it without a point
SHAPES = 4  # of points; each ten classes have another


@dataclass(frozen=True)
class Class:
    """Precision, recall and F1 in 0..1; 0 where a class was never said, or never there."""

    name: str
    n_samples: int
    precision: float
    recall: float
    f1: float


@dataclass(frozen=True)
class Matrix:
    """How many of each class, a row a class, were taken for which, and how dark that is, 0..1. `are_named` where the
    names are few enough to stand beside it.
    """

    counts: list[list[int]]
    shades: list[list[float]]
    cells: list[tuple[int, int, float]]  # row, column and shade of those that are not 0
    are_named: bool


@dataclass(frozen=True)
class Confusion:
    true: str
    said: str
    n: int
    share: float  # of the true class


@dataclass(frozen=True)
class Mistake:
    sample: int  # its place in the test part, from 0
    true: str
    said: str
    surely: float  # probability of the class said
    picture: str  # a data: address; empty where the sample is no image
    features: list[float]  # of one that is none, the first few


@dataclass(frozen=True)
class Point:
    x: float
    y: float
    label: int
    is_wrong: bool
    says: str


@dataclass(frozen=True)
class Map:
    """Points in the test part's order; `sheet` has their pictures in the same order."""

    points: list[Point]
    n: int  # mapped, of whom `points` are the first
    kind: str
    divergence: float
    sheet: Sheet | None
    width: int
    height: int
    are_written: bool  # a point is its class's name
    present: list[int]  # classes


def n_wrong(results: Results) -> int:
    return int(np.count_nonzero(results.predictions.predicted != results.predictions.labels))


def classes(results: Results) -> list[Class]:
    """How well each class is told from the others, the worst F1 first."""
    counts = confusion_matrix.counted(results)
    right, there, said = np.diag(counts), counts.sum(axis=1), counts.sum(axis=0)
    shares = [right / np.maximum(said, 1), right / np.maximum(there, 1), 2 * right / np.maximum(there + said, 1)]
    rows = zip(results.samples.class_names, there.tolist(), *(share.tolist() for share in shares), strict=True)
    return sorted((Class(*row) for row in rows), key=lambda each: each.f1)


def matrix(results: Results) -> Matrix:
    counts = confusion_matrix.counted(results)
    shares, darkest = confusion_matrix.shaded(counts)
    shades = np.minimum(shares / darkest, 1).round(2)
    full = [(int(row), int(column), float(shades[row, column])) for row, column in np.argwhere(counts)]
    return Matrix(counts.tolist(), shades.tolist(), full, len(counts) <= style.LEGIBLE)


def confusions(results: Results) -> list[Confusion]:
    """The pairs of classes that are confused most often."""
    counts = confusion_matrix.counted(results)
    there = counts.sum(axis=1)
    np.fill_diagonal(counts, 0)
    names = results.samples.class_names
    ranked = np.argsort(-counts, axis=None, kind="stable")[:ROWS]
    pairs = [divmod(int(place), len(names)) for place in ranked]
    return [
        Confusion(names[a], names[b], int(counts[a, b]), float(counts[a, b] / there[a]))
        for a, b in pairs
        if counts[a, b]
    ]


def worst(results: Results, *, rows: int, columns: int) -> list[Mistake]:
    """As many as figures/mistakes.py draws, the surest first."""
    samples, predictions = results.samples, results.predictions
    found = []
    for i in mistakes.worst(results)[: rows * columns].tolist():
        said = int(predictions.predicted[i])
        found.append(
            Mistake(
                sample=i,
                true=samples.class_names[predictions.labels[i]],
                said=samples.class_names[said],
                surely=float(results.probabilities[i, said]),
                picture=images.picture(samples.inputs[i], LARGE) if samples.are_images else "",
                features=[] if samples.are_images else samples.inputs[i][:FEATURES].tolist(),
            )
        )
    return found


def placed(results: Results, *, of: str, samples: int, perplexity: float) -> Map | None:
    """The map that figures/tsne.py draws; None where it draws none."""
    found = tsne.mapped(results, of, samples, perplexity)
    if isinstance(found, str):
        return None
    n, (width, height) = min(POINTS, len(found.places)), MAP
    low, high = found.places.min(axis=0), found.places.max(axis=0)
    shares = (found.places[:n] - low) / np.where(high > low, high - low, 1)
    x = EDGE + shares[:, 0] * (width - 2 * EDGE)
    y = EDGE + (1 - shares[:, 1]) * (height - 2 * EDGE)
    names, labels, said = results.samples.class_names, results.predictions.labels, results.predictions.predicted
    sure = results.probabilities.max(axis=1)
    points = [
        Point(
            round(float(x[i]), 1),
            round(float(y[i]), 1),
            int(labels[i]),
            bool(labels[i] != said[i]),
            f"true {names[labels[i]]}, said {names[said[i]]} ({sure[i]:.0%}); test sample {i:,}",
        )
        for i in range(n)
    ]
    present = np.unique(labels[:n]).tolist()
    return Map(
        points,
        len(found.places),
        found.kind,
        found.divergence,
        images.sheet(results.samples.inputs[:n]) if results.samples.are_images else None,
        width,
        height,
        max(map(len, names)) <= 2,
        present if len(present) <= style.LEGIBLE else [],
    )
