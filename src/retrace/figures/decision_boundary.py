"""What the network says all over the plane that its samples lie in, with the test samples on top."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from retrace.figures import style
from retrace.reports import Grid, Results, softmax


def draw(results: Results) -> Figure | str:
    """A point's colour is the class that the network says there, the paler the less sure it is; white is guessing."""
    grid, points = results.views.grid, results.samples.inputs
    if grid is None:
        return f"the samples have {np.prod(points.shape[1:]):,} dimensions, not 2"
    labels, wrong = results.predictions.labels, results.predictions.predicted != results.predictions.labels
    figure = Figure(figsize=(7.5, 6), layout="compressed")
    axes = figure.subplots()
    shade(axes, grid)
    for i in np.unique(labels):
        own, colour = points[labels == i], style.INKS[i % len(style.INKS)]
        name = style.short(results.samples.class_names[i])
        axes.scatter(*own.T, s=16, color=colour, ec="white", lw=0.5, label=name)
    if wrong.any():
        axes.scatter(*points[wrong].T, s=60, fc="none", ec=style.RIGHT, lw=1.2, label="mistakes")
    if len(np.unique(labels)) <= style.LEGIBLE:
        figure.legend(loc="outside right center", frameon=False, title="true class")
    n_right = np.count_nonzero(~wrong)
    title = f"Decision boundary: {n_right:,} of {len(wrong):,} test samples are right ({n_right / len(wrong):.1%})"
    style.headline(figure, title)
    axes.set(xlabel="feature 1", ylabel="feature 2")
    if 0.5 <= np.ptp(grid.y) / np.ptp(grid.x) <= 2:
        axes.set_aspect("equal")
    return figure


def shade(axes: Axes, grid: Grid) -> None:
    """Every point of the grid has its class's colour, and a line is where the class changes."""
    given = softmax(grid.logits)
    said, n_classes = given.argmax(axis=-1), given.shape[-1]
    colours = np.array([style.COLOURS[i % len(style.COLOURS)] for i in range(n_classes)])
    sure = (given.max(axis=-1, keepdims=True) - 1 / n_classes) / (1 - 1 / n_classes)
    axes.pcolormesh(grid.x, grid.y, 1 - 0.6 * sure * (1 - colours[said]), shading="nearest", rasterized=True)
    for i in np.unique(said):
        lead = given[..., i] - np.delete(given, i, axis=-1).max(axis=-1)
        if lead.min() < 0 < lead.max():
            axes.contour(grid.x, grid.y, lead, levels=[0], colors=style.RIGHT, linewidths=1)
