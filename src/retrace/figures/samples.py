"""The first images of the test part, with their true and their predicted class; mistakes stand out."""

from typing import Annotated

from matplotlib.figure import Figure
from pydantic import Field

from retrace.figures import style
from retrace.reports import Results

Cells = Annotated[int, Field(ge=1, le=40)]


def draw(results: Results, *, rows: Cells, columns: Cells) -> Figure:
    names, predictions = results.samples.class_names, results.predictions
    n = min(rows * columns, len(results.samples))
    figure, cells = style.grid(n, columns, (0.9, 1.1), "Test images: true class → predicted class")
    for i, axes in enumerate(cells):
        style.show_image(axes, results.samples.images[i])
        true, predicted = names[predictions.labels[i]], names[predictions.predicted[i]]
        colour, weight = (style.RIGHT, "normal") if true == predicted else (style.WRONG, "bold")
        axes.set_title(f"{true} → {predicted}", color=colour, fontweight=weight, fontsize=10)
    return figure
