"""Loss and accuracy by epoch, on the training and the validation split, with the test split's
as a horizontal line, and a diagnosis of under- and overfitting.
"""

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from lab.report.figures import style
from lab.report.results import Results
from lab.training.records import diagnosis

CURVES = (
    ("train", "training (mean over the epoch, loss as minimized)", "o"),
    ("val", "validation", "s"),
)
LABELS = {
    "loss": "loss (validation: cross-entropy, nats)",
    "accuracy": "accuracy (share of samples)",
}
MARKED = 30  # epochs; markers of more would overlap


def draw(results: Results) -> Figure:
    """Draw loss and accuracy next to each other."""
    figure = Figure(figsize=(9.5, 4.5), layout="constrained")
    style.title(figure, diagnosis(results.history))
    panels = figure.subplots(1, 2)
    for axes, metric in zip(panels, LABELS, strict=True):
        _draw_metric(axes, results, metric)
    handles = panels[0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside lower center", ncols=3, frameon=False)
    return figure


def _draw_metric(axes: Axes, results: Results, metric: str) -> None:
    epochs = [row["epoch"] for row in results.history]
    for color, (split, name, marker) in zip(style.COLORS, CURVES, strict=False):
        values = [row[f"{split}_{metric}"] for row in results.history]
        shape = marker if len(epochs) <= MARKED else None
        axes.plot(epochs, values, marker=shape, markersize=5, color=color, label=name)
    test = results.metrics[f"test_{metric}"]
    axes.axhline(test, color=style.COLORS[2], ls="--", label="test")
    axes.set(xlabel="epoch", ylabel=LABELS[metric], xlim=(epochs[0] - 0.5, epochs[-1] + 0.5))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.grid(visible=True)
    if metric == "accuracy":
        axes.yaxis.set_major_formatter(PercentFormatter(xmax=1))
