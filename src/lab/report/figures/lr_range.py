"""The figure of a learning-rate range test."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from lab.report.figures import style


def save(
    path: Path,
    rates: Sequence[float],
    losses: Sequence[float],
    smoothed: Sequence[float],
    suggestion: float,
) -> None:
    """Draw each step's loss and the smoothed loss over the learning rate, with the suggestion."""
    figure = Figure(figsize=(8, 4), layout="constrained")
    style.title(figure, f"Loss of {len(rates)} steps with a rising learning rate")
    axes = figure.subplots()
    axes.plot(rates, losses, color=style.GUIDE, lw=0.8, label="loss of the step")
    axes.plot(rates, smoothed, color=style.COLORS[0], label="smoothed")
    axes.axvline(suggestion, color=style.COLORS[1], label=f"suggestion: {suggestion:g}")
    most = 1.5 * max(smoothed[0], min(smoothed))  # a diverged loss would hide the rest
    axes.set(xscale="log", xlabel="learning rate", ylabel="training loss", ylim=(None, most))
    axes.grid(visible=True)
    axes.legend()
    style.save(figure, path)
