"""The weights of the network's first layer as pictures: what each of its units looks for."""

import numpy as np
from matplotlib.figure import Figure

from retrace.figures import style
from retrace.reports import Results


def draw(results: Results, *, rows: style.Cells, columns: style.Cells) -> Figure | str:
    """All on one scale. Of one channel: red above 0, blue below; of three: red, green and blue, grey at 0."""
    filters = results.views.filters
    if filters is None:
        return "the network's first layer has no weights that are pictures"
    _, channels, height, width = filters.shape
    if channels not in (1, 3):
        return f"the first layer's weights have {channels:,} channels, neither 1 nor 3"
    largest = float(np.abs(filters).max()) or 1.0
    shown = filters[: rows * columns]
    meaning = "red positive, blue negative" if channels == 1 else "a channel a colour, grey is 0"
    title = f"First layer, filters 1–{len(shown)} ({height} × {width}): {meaning}, largest {largest:.2g}"
    figure, cells = style.grid([""] * len(shown), columns, title)
    for weights, axes in zip(shown, cells, strict=True):
        if channels == 1:
            axes.imshow(weights[0], cmap="RdBu_r", vmin=-largest, vmax=largest)
        else:
            axes.imshow(0.5 + weights.transpose(1, 2, 0) / (2 * largest))
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set(visible=True, color=style.GUIDE)
    return figure
