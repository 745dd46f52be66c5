"""True by false positive rate, a curve a class against the rest, over all thresholds of its probability."""

from statistics import fmean
from typing import Literal

import numpy as np
from matplotlib.figure import Figure

from retrace import curves
from retrace.figures import style
from retrace.reports import Results


def draw(results: Results, *, classes: style.Curves, scale: Literal["log", "linear"]) -> Figure | str:
    """Receiver operating characteristic. On a logarithmic axis the curves of good classifiers come apart; it begins
    at one false positive, and the other axis where the curves do.
    """
    against = results.each_against_the_rest
    if not against:
        return style.ONE_CLASS
    rates = {i: curves.roc(curves.found(own, given)) for i, (own, given) in against.items()}
    areas = {i: curves.area(*curve) for i, curve in rates.items()}
    left = 1 / len(results.samples) if scale == "log" else 0.0
    figure = Figure(figsize=(8.5, 5.5), layout="constrained")
    axes = figure.subplots()
    lowest = 1.0
    for i, colour in style.worst(areas, classes).items():
        false, true = rates[i]
        lowest = min(lowest, true[false <= left].max())
        name = f"{style.short(results.samples.class_names[i])}  {areas[i]:.4f}"
        axes.plot(np.maximum(false, left), true, color=colour, drawstyle="steps-post", label=name)
    guessed = np.geomspace(left, 1, 100) if scale == "log" else np.array([0, 1])
    axes.plot(guessed, guessed, color=style.GUIDE, ls=":", label="guessing  0.5")
    bottom = style.corner(lowest) if scale == "log" else 0.0
    axes.set(xscale=scale, xlim=(left, 1), ylim=(bottom, 1 + 0.01 * (1 - bottom)))
    axes.set(xlabel="false positive rate (share of the rest)", ylabel="true positive rate (share of the class)")
    axes.grid(visible=True, axis="both")
    chosen = f"; the {classes} worst of {len(areas):,} classes" if len(areas) > classes else ""
    style.headline(figure, f"ROC by class: mean area under the curve {fmean(areas.values()):.4f}{chosen}")
    figure.legend(loc="outside right center", frameon=False, title="area under the curve")
    return figure
