"""Precision-recall curves, one-vs-rest for each class (tutorial 003)."""

from dataclasses import dataclass
from statistics import fmean

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from sklearn import metrics

from lab.report.figures import style
from lab.report.results import Results


@dataclass(frozen=True)
class Curve:
    """One class against the rest, from the lowest threshold to the highest."""

    precision: np.ndarray
    recall: np.ndarray
    average_precision: float

    @property
    def break_even(self) -> float:
        """The largest value that precision and recall both reach."""
        return float(np.minimum(self.precision, self.recall).max())


def curves(results: Results) -> dict[int, Curve]:
    """Compute the curve of each class that some test samples belong to and others do not."""
    by_class = {}
    for i, (is_class, scores) in results.one_vs_rest.items():
        points = metrics.precision_recall_curve(is_class, scores, drop_intermediate=True)
        average = float(metrics.average_precision_score(is_class, scores))
        by_class[i] = Curve(points[0], points[1], average)
    return by_class


def draw(results: Results, *, classes: style.Curves) -> Figure | str:
    """Draw the curves of the worst classes; better curves are nearer to the upper right corner."""
    by_class = curves(results)
    if not by_class:
        return style.ONE_CLASS
    scores = {i: curve.average_precision for i, curve in by_class.items()}
    shown = style.worst(scores, classes)
    figure = Figure(figsize=(8.5, 5.5), layout="constrained")
    axes = figure.subplots()
    for i, color in shown.items():
        curve = by_class[i]
        name = f"{style.short(results.samples.class_names[i])}  {scores[i]:.4f}"
        step = {"color": color, "drawstyle": "steps-post", "label": name}
        axes.plot(curve.recall, curve.precision, **step)
    _frame(axes, style.axis_start(min(by_class[i].break_even for i in shown)))
    chosen = f"; the {classes} worst of {len(scores):,} classes" if len(scores) > classes else ""
    mean = f"mean average precision {fmean(scores.values()):.4f}"
    style.title(figure, f"Precision and recall by class: {mean}{chosen}")
    figure.legend(loc="outside right center", frameon=False, title="average precision")
    return figure


def _frame(axes: Axes, start: float) -> None:
    """Scale both axes from `start` to 1, and draw lines of equal F1."""
    end = 1 + 0.01 * (1 - start)
    axes.set(xlim=(start, end), xlabel="recall (share of the class that is found)")
    axes.set(ylim=(start, end), ylabel="precision (share of these predictions that are correct)")
    rates = np.linspace(max(start, 0.01), 1, 200)
    recall, precision = np.meshgrid(rates, rates)
    f1 = 2 * precision * recall / (precision + recall)
    levels = start + (1 - start) * np.array([0.2, 0.4, 0.6, 0.8])
    lines = axes.contour(recall, precision, f1, levels, colors=style.GUIDE)
    lines.set(linewidth=0.8, linestyle=":", zorder=0)
    axes.clabel(lines, fmt="F1 {:.3g}".format, fontsize=8)
