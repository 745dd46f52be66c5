"""The test images with the largest loss: where the network was surest of the wrong class."""

import numpy as np
from matplotlib.figure import Figure

from retrace.figures import style
from retrace.reports import Results


def worst(results: Results) -> np.ndarray:
    """The test samples that are told wrong, those with the least probability of their own class first."""
    predictions = results.predictions
    wrong = np.flatnonzero(predictions.predicted != predictions.labels)
    return wrong[np.argsort(results.probabilities[wrong, predictions.labels[wrong]], kind="stable")]


def draw(results: Results, *, rows: style.Cells, columns: style.Cells) -> Figure | str:
    if not results.samples.are_images:
        return style.NO_IMAGES
    predictions, given = results.predictions, results.probabilities
    wrong = worst(results)
    if not len(wrong):
        return f"there is no mistake in {len(results.samples):,} test samples"
    shown = wrong[: rows * columns]
    names = [style.short(name, 12) for name in results.samples.class_names]
    labels = []
    for i in shown:
        said = predictions.predicted[i]
        labels.append(f"true {names[predictions.labels[i]]}\nsaid {names[said]} ({given[i, said]:.0%})")
    title = f"The {len(shown):,} worst of {len(wrong):,} mistakes: true class, class said and how surely"
    figure, cells = style.grid(labels, columns, title)
    for i, axes in zip(shown, cells, strict=True):
        style.show_image(axes, results.samples.inputs[i])
    return figure
