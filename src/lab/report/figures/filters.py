"""The weights of the network's first layer as images."""

import numpy as np
from matplotlib.figure import Figure

from lab.report.figures import style
from lab.report.results import Results


def draw(results: Results, *, rows: style.Cells, columns: style.Cells) -> Figure | str:
    """Draw the first filters on one scale.

    With one channel, red is positive and blue negative; with three, they are red, green and blue,
    and gray is 0.
    """
    filters = results.views.filters
    if filters is None:
        return "the weights of the network's first layer are not images"
    _, channels, height, width = filters.shape
    if channels not in (1, 3):
        return f"the first layer's weights have {channels:,} channels, neither 1 nor 3"
    largest = float(np.abs(filters).max()) or 1.0
    shown = filters[: rows * columns]
    legend = "red positive, blue negative" if channels == 1 else "channels as RGB, gray is 0"
    size = f"({height} × {width})"
    sentence = f"First layer, filters 1–{len(shown)} {size}: {legend}, largest {largest:.2g}"
    figure, cells = style.grid([""] * len(shown), columns, sentence)
    for weights, axes in zip(shown, cells, strict=True):
        if channels == 1:
            axes.imshow(weights[0], cmap="RdBu_r", vmin=-largest, vmax=largest)
        else:
            axes.imshow(0.5 + weights.transpose(1, 2, 0) / (2 * largest))
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set(visible=True, color=style.GUIDE)
    return figure
