"""How an experiment learned, and its precision by its recall, as charts."""

from dataclasses import dataclass
from statistics import fmean

import numpy as np

from retrace import curves as thresholds
from retrace.figures import style
from retrace.pages import charts
from retrace.pages.charts import Axis, Chart, Line
from retrace.reports import History, Results

PARTS = {"train": "training", "val": "validation"}
ROWS = 20  # of the table of epochs, at most
OF_LOSS, OF_RATE = 4, 0  # colours


@dataclass(frozen=True)
class Recall:
    """The curves of the worst classes, worst first, with the average precision of each class in the lines' names."""

    chart: Chart
    mean: float  # of the average precision, over all classes
    n_classes: int


def learning(results: Results) -> list[Chart]:
    """Loss and accuracy by epoch, learning rate and loss by step."""
    history, steps = results.history, results.steps
    epochs, counts = [row["epoch"] for row in history], [row["step"] for row in steps]
    by_epoch = charts.around(epochs, "epoch", whole=True) if len(epochs) > 1 else Axis("epoch", 0.5, 1.5, whole=True)
    found = []
    for metric, label, most in (("loss", "loss (cross-entropy, nats)", np.inf), ("accuracy", "accuracy", 1.0)):
        drawn = {part: [row[f"{part}_{metric}"] for row in history] for part in PARTS}
        tested = results.metrics[f"test_{metric}"]
        y = charts.around([*drawn["train"], *drawn["val"], tested], label, most=most, percent=metric == "accuracy")
        lines = [
            Line(charts.path(by_epoch, epochs, y, values), i, PARTS[part])
            for i, (part, values) in enumerate(drawn.items())
        ]
        lines.append(Line(charts.level(y, tested), 2, "test", dashed=True))
        said = ", ".join(f"{PARTS[part]} from {values[0]:.4g} to {values[-1]:.4g}" for part, values in drawn.items())
        alt = f"{label} over {len(epochs):,} epochs: {said}; test {tested:.4g}"
        found.append(Chart(f"{metric.capitalize()} by epoch", alt, by_epoch, y, lines))
    for column, label, log in (("learning_rate", "learning rate", False), ("loss", "training loss of the step", True)):
        values = [row[column] for row in steps]
        y = charts.around(values, label, log=log)
        x = charts.around(counts, "step", whole=True) if len(counts) > 1 else Axis("step", 0.5, 1.5, whole=True)
        line = Line(charts.path(x, counts, y, values), OF_LOSS if log else OF_RATE)
        alt = (
            f"{label} over {counts[-1]:,.0f} steps: from {values[0]:.3g} to {values[-1]:.3g}, {max(values):.3g} at most"
        )
        found.append(Chart(f"{'Loss' if log else 'Learning rate'} by step", alt, x, y, [line]))
    return found


def kept(results: Results) -> str:
    """Which epoch's network this is: the one with the metrics that evaluate took over."""
    for row in results.history:
        if all(results.metrics.get(name) == number for name, number in row.items() if name != "epoch"):
            return f"of epoch {row['epoch']:.0f}, which was kept, of {len(results.history):,}"
    return "of the epoch that was kept"


def thinned(history: History) -> History:
    """Some of the rows, evenly, with the first and the last."""
    chosen = np.unique(np.linspace(0, len(history) - 1, min(ROWS, len(history))).round().astype(int))
    return [history[i] for i in chosen]


def precision_recall(results: Results, *, classes: int) -> Recall | None:
    """As figures/precision_recall.py has it; None where all test samples are of one class."""
    found = {i: thresholds.found(own, given) for i, (own, given) in results.each_against_the_rest.items()}
    if not found:
        return None
    scores = {i: thresholds.average_precision(of) for i, of in found.items()}
    shown = {i: thresholds.precision_recall(thresholds.corners(found[i])) for i in style.worst(scores, classes)}
    lowest = min(float(np.minimum(precision, recall).max()) for precision, recall in shown.values())
    start = style.corner(2 * lowest - 1)  # so that the lowest curve is well inside
    room = 0.01 * (1 - start)
    x = Axis("recall (share of the class that is found)", start, 1 + room, percent=True)
    y = Axis("precision (share of the found that is right)", start, 1 + room, percent=True)
    few = max(scores) < len(style.COLOURS)
    names = results.samples.class_names
    lines = [
        Line(charts.path(x, recall, y, precision, stepped=True), i if few else rank, f"{names[i]}  {scores[i]:.4f}")
        for rank, (i, (precision, recall)) in enumerate(shown.items())
    ]
    said = ", ".join(f"{names[i]} {scores[i]:.4f}" for i in shown)
    chart = Chart("Precision by recall", f"precision by recall, average precision by class: {said}", x, y, lines)
    return Recall(chart, fmean(scores.values()), len(scores))
