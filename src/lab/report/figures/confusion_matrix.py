"""The number of test samples by true class and predicted class."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from lab.report.figures import style
from lab.report.results import Results


def confusion_counts(results: Results) -> np.ndarray:
    """Count the test samples by true class (rows) and predicted class (columns)."""
    n = len(results.samples.class_names)
    counts = np.zeros((n, n), dtype=int)
    np.add.at(counts, (results.predictions.labels, results.predictions.predicted), 1)
    return counts


def row_shares(counts: np.ndarray) -> tuple[np.ndarray, float]:
    """Return each cell's share of its row, and the share to draw darkest.

    That is the largest share off the diagonal, at least 0.1. If the diagonal set the scale, no
    error would be visible next to it.
    """
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    return shares, max(0.1, (shares - np.diag(np.diag(shares))).max())


def draw(results: Results) -> Figure:
    """Draw the counts, colored by their share of the row."""
    names = results.samples.class_names
    counts = confusion_counts(results)
    shares, darkest = row_shares(counts)
    side = max(5.0, 0.52 * len(names) + 1.4) if len(names) <= style.LEGIBLE else 9.0
    figure = Figure(figsize=(side + 1, side), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=darkest)
    bar = {"label": "share of the true class", "extend": "max", "shrink": 0.8, "format": "{x:.0%}"}
    figure.colorbar(image, ax=axes, **bar)
    n_correct = np.trace(counts)
    axes.set_title(f"{n_correct:,} of {counts.sum():,} test samples correctly classified")
    if len(names) <= style.LEGIBLE:
        _write_counts(axes, counts, shares > darkest / 2)
        axes.set(xlabel="predicted class", ylabel="true class")
        _label_axes(axes, [style.short(name) for name in names])
    else:
        axes.set(xlabel="predicted class (row of classes.csv, from 0)")
        axes.set(ylabel="true class (row of classes.csv, from 0)")
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(MaxNLocator(integer=True))
    return figure


def _write_counts(axes: Axes, counts: np.ndarray, is_dark: np.ndarray) -> None:
    """Write each count that is not 0 into its cell."""
    for (row, column), n in np.ndenumerate(counts):
        if n:
            color = "white" if is_dark[row, column] else style.DARK
            axes.text(column, row, f"{n}", ha="center", va="center", color=color, fontsize=8)


def _label_axes(axes: Axes, names: list[str]) -> None:
    """Write the class names at both axes, slanted if they are long."""
    slanted = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"}
    axes.set_xticks(range(len(names)), names, **(slanted if max(map(len, names)) > 2 else {}))
    axes.set_yticks(range(len(names)), names)
