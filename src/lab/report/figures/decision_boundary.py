"""The predicted class at each point of the plane of two features, and the test samples."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lab.evaluation.artifacts import Grid
from lab.evaluation.metrics import softmax
from lab.report.figures import style
from lab.report.results import Results


def draw(results: Results) -> Figure | str:
    """Draw the predicted class of each point as its color: paler is less confident."""
    grid = results.views.grid
    points = results.samples.inputs
    if grid is None:
        return f"the samples have {np.prod(points.shape[1:]):,} dimensions, not 2"
    labels = results.predictions.labels
    is_wrong = results.predictions.predicted != labels
    figure = Figure(figsize=(7.5, 6), layout="compressed")
    axes = figure.subplots()
    _shade(axes, grid)
    for i in np.unique(labels):
        color = style.DARK_COLORS[i % len(style.DARK_COLORS)]
        name = style.short(results.samples.class_names[i])
        axes.scatter(*points[labels == i].T, s=16, color=color, ec="white", lw=0.5, label=name)
    if is_wrong.any():
        ring = {"s": 60, "fc": "none", "ec": style.DARK, "lw": 1.2, "label": "misclassified"}
        axes.scatter(*points[is_wrong].T, **ring)
    if len(np.unique(labels)) <= style.LEGIBLE:
        figure.legend(loc="outside right center", frameon=False, title="true class")
    n_correct = np.count_nonzero(~is_wrong)
    share = n_correct / len(is_wrong)
    accuracy = f"{n_correct:,} of {len(is_wrong):,} test samples correctly classified ({share:.1%})"
    style.title(figure, f"Decision boundary: {accuracy}")
    axes.set(xlabel="feature 1", ylabel="feature 2")
    if 0.5 <= np.ptp(grid.y) / np.ptp(grid.x) <= 2:
        axes.set_aspect("equal")
    return figure


def _shade(axes: Axes, grid: Grid) -> None:
    """Color the grid by predicted class, and draw lines where it changes.

    A point at which all classes are equally probable is white.
    """
    probabilities = softmax(grid.logits)
    predicted = probabilities.argmax(axis=-1)
    n_classes = probabilities.shape[-1]
    colors = np.array([style.COLORS[i % len(style.COLORS)] for i in range(n_classes)])
    chance = 1 / n_classes
    confidence = (probabilities.max(axis=-1, keepdims=True) - chance) / (1 - chance)
    shades = 1 - 0.6 * confidence * (1 - colors[predicted])
    axes.pcolormesh(grid.x, grid.y, shades, shading="nearest", rasterized=True)
    for i in np.unique(predicted):
        lead = probabilities[..., i] - np.delete(probabilities, i, axis=-1).max(axis=-1)
        if lead.min() < 0 < lead.max():
            axes.contour(grid.x, grid.y, lead, levels=[0], colors=style.DARK, linewidths=1)
