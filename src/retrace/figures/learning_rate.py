"""The learning rate of each step, and the training loss that the step had."""

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from retrace.figures import style
from retrace.reports import Results


def draw(results: Results) -> Figure:
    """Loss on a logarithmic axis, where all of it is above 0: most of training happens in its last tenth."""
    steps = [row["step"] for row in results.steps]
    figure = Figure(figsize=(8, 5), layout="constrained")
    style.headline(figure, f"Learning rate and training loss over {steps[-1]:,.0f} steps")
    above, below = figure.subplots(2, 1, sharex=True)
    above.plot(steps, [row["learning_rate"] for row in results.steps], color=style.COLOURS[0], marker=_dot(steps))
    above.set(ylabel="learning rate")
    losses = [row["loss"] for row in results.steps]
    below.plot(steps, losses, color=style.COLOURS[1], lw=1, marker=_dot(steps))
    below.set(xlabel="step", ylabel="training loss of the step", yscale="log" if min(losses) > 0 else "linear")
    below.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    for axes in (above, below):
        axes.grid(visible=True)
    return figure


def _dot(steps: list[float]) -> str | None:
    """A line through one step alone would not be seen."""
    return "o" if len(steps) == 1 else None
