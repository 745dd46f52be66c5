"""Precision by recall, a curve a class against the rest, over all thresholds of its probability (seeds/003)."""

from statistics import fmean

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from retrace import curves
from retrace.figures import style
from retrace.reports import Results


def draw(results: Results, *, classes: style.Curves) -> Figure | str:
    """The better, the nearer to the upper right corner, from which on the axes go as far down as there are curves."""
    found = {i: curves.found(own, given) for i, (own, given) in results.each_against_the_rest.items()}
    if not found:
        return style.ONE_CLASS
    scores = {i: curves.average_precision(of) for i, of in found.items()}
    figure = Figure(figsize=(8.5, 5.5), layout="constrained")
    axes = figure.subplots()
    lowest = 1.0
    for i, colour in style.worst(scores, classes).items():
        precision, recall = curves.precision_recall(curves.corners(found[i]))
        lowest = min(lowest, np.minimum(precision, recall).max())
        name = f"{style.short(results.samples.class_names[i])}  {scores[i]:.4f}"
        axes.plot(recall, precision, color=colour, drawstyle="steps-post", label=name)
    _mark(axes, style.corner(lowest))
    chosen = f"; the {classes} worst of {len(scores):,} classes" if len(scores) > classes else ""
    style.headline(
        figure, f"Precision and recall by class: mean average precision {fmean(scores.values()):.4f}{chosen}"
    )
    figure.legend(loc="outside right center", frameon=False, title="average precision")
    return figure


def _mark(axes: Axes, start: float) -> None:
    """Axes from `start` to 1, with lines of equal F1, the harmonic mean of both."""
    end = 1 + 0.01 * (1 - start)
    axes.set(xlim=(start, end), xlabel="recall (share of the class that is found)")
    axes.set(ylim=(start, end), ylabel="precision (share of the found that is right)")
    rates = np.linspace(max(start, 0.01), 1, 200)
    recall, precision = np.meshgrid(rates, rates)
    levels = start + (1 - start) * np.array([0.2, 0.4, 0.6, 0.8])
    lines = axes.contour(recall, precision, 2 * precision * recall / (precision + recall), levels, colors=style.GUIDE)
    lines.set(linewidth=0.8, linestyle=":", zorder=0)
    axes.clabel(lines, fmt="F1 {:.3g}".format, fontsize=8)
