"""The test images with the largest loss: where the network was surest of the wrong class."""

import numpy as np
from matplotlib.figure import Figure

from retrace.figures import style
from retrace.figures.samples import Cells
from retrace.reports import Results


def draw(results: Results, *, rows: Cells, columns: Cells) -> Figure:
    names, predictions = results.samples.class_names, results.predictions
    wrong = np.flatnonzero(predictions.predicted != predictions.labels)
    of_truth = results.probabilities[wrong, predictions.labels[wrong]]
    worst = wrong[np.argsort(of_truth, kind="stable")][: rows * columns]
    if not len(worst):
        return style.note(f"No mistake in {len(results.samples):,} test samples")
    title = f"The {len(worst)} worst of {len(wrong)} mistakes: true class, class said and how surely"
    figure, cells = style.grid(len(worst), min(columns, len(worst)), (1.15, 1.5), title)
    for i, axes in zip(worst, cells, strict=True):
        style.show_image(axes, results.samples.images[i])
        said = predictions.predicted[i]
        sure = results.probabilities[i, said]
        axes.set_title(
            f"true {names[predictions.labels[i]]}\nsaid {names[said]} ({sure:.0%})", fontsize=9, fontweight="normal"
        )
    return figure
