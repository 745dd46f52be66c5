"""Calibration: accuracy by confidence, which is the probability of the predicted class."""

from typing import Annotated

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from pydantic import Field

from lab.report.figures import style
from lab.report.results import Results


def draw(results: Results, *, bins: Annotated[int, Field(ge=2, le=100)]) -> Figure:
    """Draw the reliability diagram, with the number of samples by confidence.

    Logs `test_calibration_error`, 0..1: the mean gap between accuracy and confidence over bins of
    equal width, weighted by their samples (Guo et al. 2017).
    """
    confidence = results.probabilities.max(axis=1)
    is_correct = results.predictions.predicted == results.predictions.labels
    edges = np.linspace(0, 1, bins + 1)
    counts, _ = np.histogram(confidence, edges)
    confidences, _ = np.histogram(confidence, edges, weights=confidence)
    correct, _ = np.histogram(confidence, edges, weights=is_correct.astype(float))
    error = float(np.abs(confidences - correct).sum() / len(is_correct))
    results.log_metric("test_calibration_error", error)

    figure = Figure(figsize=(6.5, 6), layout="constrained")
    style.title(
        figure,
        f"Expected calibration error {error:.2%}: mean confidence {confidence.mean():.1%}, "
        f"accuracy {is_correct.mean():.1%} on {len(is_correct):,} test samples",
    )
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    full = counts > 0
    middles = (edges[:-1] + edges[1:])[full] / 2
    accuracy = correct[full] / counts[full]
    _draw_bars(above, middles, 1 / bins, accuracy, confidences[full] / counts[full] - accuracy)
    below.bar(middles, counts[full], 1 / bins, color=style.GUIDE, ec="white")
    below.set(yscale="log", ylim=(0.5, None), ylabel="test samples")
    below.set(xlabel="confidence (probability of the predicted class)")
    for axis in (above.xaxis, above.yaxis):
        axis.set_major_formatter(PercentFormatter(xmax=1))
    for axes in (above, below):
        axes.grid(visible=True)
    return figure


def _draw_bars(
    axes: Axes, middles: np.ndarray, width: float, accuracy: np.ndarray, gap: np.ndarray
) -> None:
    """Draw each bin's accuracy and its gap to the mean confidence."""
    axes.bar(middles, accuracy, width, color=style.COLORS[0], ec="white", label="accuracy")
    label = "gap to confidence"
    axes.bar(middles, gap, width, accuracy, fc="none", ec=style.RED, hatch="///", label=label)
    axes.plot([0, 1], [0, 1], color=style.GUIDE, ls="--", label="perfect")
    axes.set(ylabel="accuracy in the bin", xlim=(0, 1), ylim=(0, 1.02))
    axes.legend(frameon=False, loc="upper left")
