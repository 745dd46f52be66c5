"""How many samples of each class were taken for which class."""

import numpy as np
from matplotlib.figure import Figure

from retrace.figures import style
from retrace.reports import Results

LEGIBLE = 20  # classes; of more, the numbers in the cells are left out


def draw(results: Results) -> Figure:
    """Colours are shares of the row, darkest at a tenth: mistakes are rare, and would not be seen otherwise."""
    names = results.samples.class_names
    labels, predicted = results.predictions.labels, results.predictions.predicted
    counts = np.zeros((len(names), len(names)), dtype=int)
    np.add.at(counts, (labels, predicted), 1)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    side = max(5.0, 0.52 * len(names) + 1.4) if len(names) <= LEGIBLE else 9.0
    figure = Figure(figsize=(side + 1, side), layout="constrained")
    axes = figure.subplots()
    shown = axes.imshow(shares, cmap="Blues", vmin=0, vmax=0.1)
    figure.colorbar(shown, ax=axes, label="share of the true class", extend="max", shrink=0.8, format="{x:.0%}")
    if len(names) <= LEGIBLE:
        for (row, column), n in np.ndenumerate(counts):
            if n:
                colour = "white" if shares[row, column] > 0.05 else style.RIGHT
                axes.text(column, row, f"{n}", ha="center", va="center", color=colour, fontsize=8)
    rotated = 45 if max(map(len, names)) > 2 else 0
    axes.set_xticks(range(len(names)), names, rotation=rotated)
    axes.set_yticks(range(len(names)), names)
    axes.set(xlabel="predicted class", ylabel="true class")
    axes.set_title(f"{np.trace(counts):,} of {counts.sum():,} test samples are right")
    return figure
