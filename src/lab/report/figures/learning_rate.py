"""The learning rate and the training loss of each step."""

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from lab.report.figures import style
from lab.report.results import Results


def draw(results: Results) -> Figure:
    """Draw both over the steps.

    If it is positive, loss has a logarithmic axis: on a linear one, most of the training would be
    in the lowest tenth.
    """
    steps = [row["step"] for row in results.steps]
    rates = [row["learning_rate"] for row in results.steps]
    losses = [row["loss"] for row in results.steps]
    marker = "o" if len(steps) == 1 else None  # a line through a single step is invisible
    figure = Figure(figsize=(8, 5), layout="constrained")
    style.title(figure, f"Learning rate and training loss over {steps[-1]:,.0f} steps")
    above, below = figure.subplots(2, 1, sharex=True)
    above.plot(steps, rates, color=style.COLORS[0], marker=marker)
    above.set(ylabel="learning rate")
    below.plot(steps, losses, color=style.COLORS[1], lw=1, marker=marker)
    below.set(xlabel="step", ylabel="training loss of the step")
    below.set(yscale="log" if min(losses) > 0 else "linear")
    below.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    for axes in (above, below):
        axes.grid(visible=True)
    return figure
