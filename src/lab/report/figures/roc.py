"""ROC curves: true positive rate against false positive rate, one-vs-rest for each class."""

from statistics import fmean
from typing import Literal

import numpy as np
from matplotlib.figure import Figure
from sklearn import metrics

from lab.report.figures import style
from lab.report.results import Results


def draw(
    results: Results, *, classes: style.Curves, scale: Literal["log", "linear"]
) -> Figure | str:
    """Draw the receiver operating characteristic of the worst classes.

    A logarithmic axis, from one false positive on, separates the curves of good classifiers.
    """
    one_vs_rest = results.one_vs_rest
    if not one_vs_rest:
        return style.ONE_CLASS
    areas = {i: float(metrics.roc_auc_score(*pair)) for i, pair in one_vs_rest.items()}
    left = 1 / len(results.samples) if scale == "log" else 0.0
    figure = Figure(figsize=(8.5, 5.5), layout="constrained")
    axes = figure.subplots()
    lowest = 1.0
    for i, color in style.worst(areas, classes).items():
        false_rate, true_rate, _ = metrics.roc_curve(*one_vs_rest[i])
        lowest = min(lowest, true_rate[false_rate <= left].max())
        name = f"{style.short(results.samples.class_names[i])}  {areas[i]:.4f}"
        step = {"color": color, "drawstyle": "steps-post", "label": name}
        axes.plot(np.maximum(false_rate, left), true_rate, **step)
    chance = np.geomspace(left, 1, 100) if scale == "log" else np.array([0, 1])
    axes.plot(chance, chance, color=style.GUIDE, ls=":", label="chance  0.5")
    bottom = style.axis_start(lowest) if scale == "log" else 0.0
    axes.set(xscale=scale, xlim=(left, 1), ylim=(bottom, 1 + 0.01 * (1 - bottom)))
    axes.set(xlabel="false positive rate (share of the rest)")
    axes.set(ylabel="true positive rate (share of the class)")
    axes.grid(visible=True, axis="both")
    chosen = f"; the {classes} worst of {len(areas):,} classes" if len(areas) > classes else ""
    mean = f"mean area under the curve {fmean(areas.values()):.4f}"
    style.title(figure, f"ROC by class: {mean}{chosen}")
    figure.legend(loc="outside right center", frameon=False, title="area under the curve")
    return figure
