"""Loss and accuracy by epoch, of the training and of the validation part, with the test part's as a line across,
and in a sentence whether the network under- or overfits.
"""

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from retrace.figures import style
from retrace.reports import Results, diagnosis

CURVES = (("train", "training (mean over the epoch, loss as minimised)", "o"), ("val", "validation", "s"))
PANELS = (("loss", "loss (cross-entropy, nats)"), ("accuracy", "accuracy (share of samples)"))
MARKED = 30  # epochs; of more, the markers would be a smear


def draw(results: Results) -> Figure:
    history = results.history
    epochs = [row["epoch"] for row in history]
    figure = Figure(figsize=(9.5, 4.5), layout="constrained")
    style.headline(figure, diagnosis(history))
    panels = figure.subplots(1, 2)
    for axes, (metric, label) in zip(panels, PANELS, strict=True):
        for colour, (part, name, marker) in zip(style.COLOURS, CURVES, strict=False):
            values = [row[f"{part}_{metric}"] for row in history]
            shape = marker if len(epochs) <= MARKED else None
            axes.plot(epochs, values, marker=shape, markersize=5, color=colour, label=name)
        axes.axhline(results.metrics[f"test_{metric}"], color=style.COLOURS[2], ls="--", label="test")
        axes.set(xlabel="epoch", ylabel=label, xlim=(epochs[0] - 0.5, epochs[-1] + 0.5))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.grid(visible=True)
        if metric == "accuracy":
            axes.yaxis.set_major_formatter(PercentFormatter(xmax=1))
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    return figure
