"""Whether the network is right as often as it says: accuracy by confidence, the probability of the class said."""

from typing import Annotated

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from pydantic import Field

from retrace.figures import style
from retrace.reports import Results


def draw(results: Results, *, bins: Annotated[int, Field(ge=2, le=100)]) -> Figure:
    """Tells `test_calibration_error`: the mean distance of accuracy from confidence over bins of equal width,
    weighted by their samples, 0..1 (Guo et al. 2017).
    """
    confidence = results.probabilities.max(axis=1)
    right = results.predictions.predicted == results.predictions.labels
    edges = np.linspace(0, 1, bins + 1)
    counts, sure, correct = (
        np.histogram(confidence, edges, weights=weights)[0] for weights in (None, confidence, right.astype(float))
    )
    error = float(np.abs(sure - correct).sum() / len(right))
    results.tell("test_calibration_error", error)

    figure = Figure(figsize=(6.5, 6), layout="constrained")
    style.headline(
        figure,
        f"Expected calibration error {error:.2%}: "
        f"{confidence.mean():.1%} sure in the mean, right in {right.mean():.1%} of {len(right):,} test samples",
    )
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    full = counts > 0
    width, middles = 1 / bins, (edges[:-1] + edges[1:])[full] / 2
    accuracy = correct[full] / counts[full]
    gap = sure[full] / counts[full] - accuracy
    above.bar(middles, accuracy, width, color=style.COLOURS[0], ec="white", label="accuracy")
    above.bar(middles, gap, width, accuracy, fc="none", ec=style.WRONG, hatch="///", label="gap to confidence")
    above.plot([0, 1], [0, 1], color=style.GUIDE, ls="--", label="perfect")
    above.set(ylabel="accuracy in the bin", xlim=(0, 1), ylim=(0, 1.02))
    above.legend(frameon=False, loc="upper left")
    below.bar(middles, counts[full], width, color=style.GUIDE, ec="white")
    below.set(
        yscale="log", ylim=(0.5, None), xlabel="confidence (probability of the predicted class)", ylabel="test samples"
    )
    for axis in (above.xaxis, above.yaxis):
        axis.set_major_formatter(PercentFormatter(xmax=1))
    for axes in (above, below):
        axes.grid(visible=True)
    return figure
