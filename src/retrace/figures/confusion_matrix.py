"""How many samples of each class were taken for which class."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from retrace.figures import style
from retrace.reports import Results


def counted(results: Results) -> np.ndarray:
    """How many samples of each class, a row a class, were taken for which."""
    n = len(results.samples.class_names)
    counts = np.zeros((n, n), dtype=int)
    np.add.at(counts, (results.predictions.labels, results.predictions.predicted), 1)
    return counts


def shaded(counts: np.ndarray) -> tuple[np.ndarray, float]:
    """Of each cell its share of the row, and the share that is darkest: the largest mistake's, a tenth at least."""
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    return shares, max(0.1, (shares - np.diag(np.diag(shares))).max())


def draw(results: Results) -> Figure:
    """Colours are shares of the row, darkest at the largest mistake (or a tenth): mistakes would not be seen beside
    what is right.
    """
    names = results.samples.class_names
    counts = counted(results)
    shares, darkest = shaded(counts)
    side = max(5.0, 0.52 * len(names) + 1.4) if len(names) <= style.LEGIBLE else 9.0
    figure = Figure(figsize=(side + 1, side), layout="constrained")
    axes = figure.subplots()
    shown = axes.imshow(shares, cmap="Blues", vmin=0, vmax=darkest)
    figure.colorbar(shown, ax=axes, label="share of the true class", extend="max", shrink=0.8, format="{x:.0%}")
    axes.set_title(f"{np.trace(counts):,} of {counts.sum():,} test samples are right")
    if len(names) <= style.LEGIBLE:
        _write(axes, counts, shares > darkest / 2)
        axes.set(xlabel="predicted class", ylabel="true class")
        _name(axes, [style.short(name) for name in names])
    else:
        axes.set(
            xlabel="predicted class (row of classes.csv, from 0)", ylabel="true class (row of classes.csv, from 0)"
        )
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(MaxNLocator(integer=True))
    return figure


def _write(axes: Axes, counts: np.ndarray, dark: np.ndarray) -> None:
    for (row, column), n in np.ndenumerate(counts):
        if n:
            colour = "white" if dark[row, column] else style.RIGHT
            axes.text(column, row, f"{n}", ha="center", va="center", color=colour, fontsize=8)


def _name(axes: Axes, names: list[str]) -> None:
    slanted = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"} if max(map(len, names)) > 2 else {}
    axes.set_xticks(range(len(names)), names, **slanted)
    axes.set_yticks(range(len(names)), names)
