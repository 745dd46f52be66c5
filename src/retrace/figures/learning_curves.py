"""Loss and accuracy by epoch, of the training and of the validation part, with the test part's as a mark at the end."""

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from retrace.figures import style
from retrace.reports import Results

PANELS = (("loss", "loss (cross-entropy, nats)"), ("accuracy", "accuracy (share of samples)"))


def draw(results: Results) -> Figure:
    history = results.history
    epochs = [row["epoch"] for row in history]
    figure = Figure(figsize=(9, 3.8), layout="constrained")
    for axes, (metric, label) in zip(figure.subplots(1, 2), PANELS, strict=True):
        curves = (("train", "training (mean over the epoch)", "o"), ("val", "validation", "s"))
        for colour, (part, name, marker) in zip(style.COLOURS, curves, strict=False):
            values = [row[f"{part}_{metric}"] for row in history]
            axes.plot(epochs, values, marker=marker, markersize=5, color=colour, label=name)
        tested = results.metrics[f"test_{metric}"]
        axes.plot(epochs[-1], tested, marker="*", markersize=12, color=style.COLOURS[2], ls="none", label="test")
        axes.set(title=metric.capitalize(), xlabel="epoch", ylabel=label)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(visible=True)
        if metric == "accuracy":
            axes.yaxis.set_major_formatter(PercentFormatter(xmax=1))
        axes.legend(frameon=False)
    return figure
