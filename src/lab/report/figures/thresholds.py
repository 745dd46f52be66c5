"""Thresholds for a wanted precision: from which probability on a prediction can be accepted, and
the share of the class that is then accepted.
"""

from dataclasses import dataclass
from typing import Annotated

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from pydantic import Field

from lab.evaluation import metrics
from lab.report.figures import style
from lab.report.results import Results

Precision = Annotated[float, Field(gt=0, le=1)]
Rows = Annotated[int, Field(ge=1, le=100)]
DIGITS = range(1, 17)  # of a threshold


@dataclass(frozen=True)
class Threshold:
    """The predictions of a class with at least a probability, on the test split."""

    name: str
    probability: float | None  # None: no threshold reaches the precision
    n_accepted: int
    n_correct: int
    n_samples: int  # of the class

    @property
    def precision(self) -> float:
        """The share of the accepted predictions that is correct, 0..1."""
        return self.n_correct / max(self.n_accepted, 1)

    @property
    def recall(self) -> float:
        """The share of the class that is accepted and correct, 0..1."""
        return self.n_correct / max(self.n_samples, 1)

    @property
    def lowest(self) -> float:
        """The lower end of the precision's 95 % confidence interval (Wilson 1927)."""
        return metrics.interval(self.precision, self.n_accepted)[0] if self.n_accepted else 0.0


def by_class(results: Results, precision: float) -> list[Threshold]:
    """Return the smallest threshold that reaches a precision, by class, the lowest recall first.

    A prediction is the class with the largest probability, so a threshold of 0 accepts all.
    """
    predictions = results.predictions
    confidence = results.probabilities.max(axis=1)
    n_samples = np.bincount(predictions.labels, minlength=len(results.samples.class_names))
    thresholds = []
    for i, name in enumerate(results.samples.class_names):
        own = np.flatnonzero(predictions.predicted == i)
        own = own[np.argsort(-confidence[own], kind="stable")]
        is_correct = predictions.labels[own] == i
        n = _n_accepted(confidence[own], is_correct, precision)
        probability = _between(confidence[own], n) if n else None
        n_correct = int(is_correct[:n].sum())
        thresholds.append(Threshold(name, probability, n, n_correct, int(n_samples[i])))
    return sorted(thresholds, key=lambda each: each.recall)


def draw(results: Results, *, precision: Precision, classes: Rows) -> Figure:
    """Draw the recall at each class's threshold, the lowest first."""
    thresholds = by_class(results, precision)
    shown = thresholds[:classes]
    size = (8.5, 1.4 + 0.3 * len(shown))
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots()
    rows = range(len(shown))
    axes.barh(rows, [each.recall for each in shown], color=style.COLORS[0], height=0.7)
    for row, each in zip(rows, shown, strict=True):
        axes.text(1.02, row, text(each), va="center", fontsize=9)
    axes.set_yticks(rows, [style.short(each.name) for each in shown])
    axes.set(xlim=(0, 1), xlabel="recall (share of the class that is accepted and correct)")
    axes.invert_yaxis()
    axes.grid(visible=True, axis="x")
    axes.xaxis.set_major_formatter(PercentFormatter(xmax=1))
    chosen = f"; {len(shown)} of {len(thresholds):,} classes" if classes < len(thresholds) else ""
    style.title(figure, f"Thresholds for a precision of {precision:.4g} on the test split{chosen}")
    return figure


def text(threshold: Threshold) -> str:
    """Return the threshold, and how many of the accepted predictions are correct."""
    if threshold.probability is None:
        return "not reached"
    share = f"{threshold.n_correct:,} of {threshold.n_accepted:,} correct"
    if threshold.probability == 0:
        return f"all: {share}"
    return f"p ≥ {threshold.probability:g}: {share}"


def _n_accepted(confidence: np.ndarray, is_correct: np.ndarray, precision: float) -> int:
    """Return the largest number of first predictions that reach the precision.

    Both arrays are sorted by confidence, largest first. Equal confidences are accepted together.
    """
    n = np.arange(1, len(confidence) + 1)
    is_last = np.append(confidence[1:] < confidence[:-1], True)[: len(confidence)]
    reached = n[is_last & (is_correct.cumsum() >= precision * n)]
    return int(reached[-1]) if len(reached) else 0


def _between(confidence: np.ndarray, n: int) -> float:
    """Return a number with few digits that is above no one of the `n` first, and above the rest."""
    if n == len(confidence):
        return 0.0
    low = float(confidence[n])
    high = float(confidence[n - 1])
    middle = (low + high) / 2
    rounded = (round(middle, digits) for digits in DIGITS)
    return next((each for each in rounded if low < each <= high), high)
