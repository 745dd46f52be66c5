"""Learning curves and precision-recall curves as charts."""

from dataclasses import dataclass
from statistics import fmean

import numpy as np

from lab.report.figures import precision_recall as figure
from lab.report.figures import style
from lab.report.results import Results
from lab.stage_files import Table
from retrace.compare import svg
from retrace.compare.svg import Axis, Chart, Line

SPLITS = {"train": "training", "val": "validation"}
LABELS = {"loss": "loss (validation: cross-entropy, nats)", "accuracy": "accuracy"}
ROWS = 20  # of the table of epochs, at most


@dataclass(frozen=True)
class PrecisionRecall:
    """The curves of the worst classes, worst first; the lines' names have average precisions."""

    chart: Chart
    mean: float  # of the average precision, over all classes
    n_classes: int


def learning(results: Results) -> list[Chart]:
    """Return loss and accuracy by epoch, and learning rate and loss by step."""
    return [
        _by_epoch(results, "loss"),
        _by_epoch(results, "accuracy"),
        _by_step(results, "learning_rate", "learning rate", color=0),
        _by_step(results, "loss", "training loss of the step", color=4),
    ]


def _by_epoch(results: Results, metric: str) -> Chart:
    """Return a metric of the three splits; the test split's is a horizontal line."""
    history = results.history
    label = LABELS[metric]
    epochs = [row["epoch"] for row in history]
    curves = {split: [row[f"{split}_{metric}"] for row in history] for split in SPLITS}
    test = results.metrics[f"test_{metric}"]
    is_share = metric == "accuracy"
    x = svg.fit_axis(epochs, "epoch", integer=True)
    values = [*curves["train"], *curves["val"], test]
    y = svg.fit_axis(values, label, most=1.0 if is_share else np.inf, percent=is_share)
    lines = [
        Line(svg.path(x, epochs, y, curve), i, SPLITS[split])
        for i, (split, curve) in enumerate(curves.items())
    ]
    lines.append(Line(svg.level(y, test), 2, "test", dashed=True))
    ends = [f"{SPLITS[split]} from {row[0]:.4g} to {row[-1]:.4g}" for split, row in curves.items()]
    description = f"{label} over {len(epochs):,} epochs: {', '.join(ends)}; test {test:.4g}"
    return Chart(f"{metric.capitalize()} by epoch", description, x, y, lines)


def _by_step(results: Results, column: str, label: str, *, color: int) -> Chart:
    """Return the learning rate or the loss of each step."""
    steps = [row["step"] for row in results.steps]
    values = [row[column] for row in results.steps]
    x = svg.fit_axis(steps, "step", integer=True)
    y = svg.fit_axis(values, label, log=column == "loss")
    ends = f"from {values[0]:.3g} to {values[-1]:.3g}"
    description = f"{label} over {steps[-1]:,.0f} steps: {ends}, {max(values):.3g} at most"
    title = f"{column.replace('_', ' ').capitalize()} by step"
    return Chart(title, description, x, y, [Line(svg.path(x, steps, y, values), color)])


def kept_epoch(results: Results) -> str:
    """Name the epoch whose weights were kept: its metrics are in metrics.json."""
    for row in results.history:
        metrics = {name: number for name, number in row.items() if name != "epoch"}
        if all(results.metrics.get(name) == number for name, number in metrics.items()):
            return f"from epoch {row['epoch']:.0f} of {len(results.history):,}, the one kept"
    return "from the epoch that was kept"


def thinned(history: Table) -> Table:
    """Return evenly spaced rows, with the first and the last."""
    spaced = np.linspace(0, len(history) - 1, min(ROWS, len(history)))
    return [history[i] for i in np.unique(spaced.round().astype(int))]


def precision_recall(results: Results, *, classes: int) -> PrecisionRecall | None:
    """Return the chart, or None if all test samples are of one class."""
    by_class = figure.curves(results)
    if not by_class:
        return None
    scores = {i: curve.average_precision for i, curve in by_class.items()}
    shown = list(style.worst(scores, classes))
    lowest = min(by_class[i].break_even for i in shown)
    start = style.axis_start(2 * lowest - 1)  # so that the lowest curve is well inside
    end = 1 + 0.01 * (1 - start)
    x = Axis("recall (share of the class that is found)", start, end, percent=True)
    y = Axis("precision (share of predictions that are correct)", start, end, percent=True)
    is_few = max(scores) < len(style.COLORS)
    names = [f"{results.samples.class_names[i]}  {scores[i]:.4f}" for i in shown]
    lines = []
    for rank, (i, name) in enumerate(zip(shown, names, strict=True)):
        curve = by_class[i]
        line = svg.path(x, curve.recall, y, curve.precision, stepped=True)
        lines.append(Line(line, i if is_few else rank, name))
    values = ", ".join(name.replace("  ", " ") for name in names)
    description = f"precision-recall curves, one-vs-rest, average precision by class: {values}"
    chart = Chart("Precision-recall curves", description, x, y, lines)
    return PrecisionRecall(chart, fmean(scores.values()), len(scores))
