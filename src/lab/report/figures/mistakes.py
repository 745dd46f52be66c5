"""The misclassified test images with the largest loss."""

import numpy as np
from matplotlib.figure import Figure

from lab.evaluation import metrics
from lab.report.figures import style
from lab.report.results import Results


def worst(results: Results) -> np.ndarray:
    """Return the indices of the misclassified test samples, those with the largest loss first."""
    return metrics.worst_mistakes(results.probabilities, results.predictions.labels)


def draw(results: Results, *, rows: style.Cells, columns: style.Cells) -> Figure | str:
    """Draw the worst, each with its true class, and its predicted class and probability."""
    if not results.samples.are_images:
        return style.NO_IMAGES
    predictions = results.predictions
    wrong = worst(results)
    if not len(wrong):
        return f"all {len(results.samples):,} test samples are correctly classified"
    shown = wrong[: rows * columns]
    names = [style.short(name, 12) for name in results.samples.class_names]
    labels = []
    for i in shown:
        predicted = predictions.predicted[i]
        probability = f"{results.probabilities[i, predicted]:.0%}"
        true = names[predictions.labels[i]]
        labels.append(f"true {true}\npredicted {names[predicted]} ({probability})")
    chosen = f"The {len(shown):,} worst of {len(wrong):,} misclassified test images"
    figure, cells = style.grid(labels, columns, f"{chosen}, with the predicted probability")
    for i, axes in zip(shown, cells, strict=True):
        style.show_image(axes, results.samples.inputs[i])
    return figure
