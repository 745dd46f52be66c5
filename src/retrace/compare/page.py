"""Render a comparison as an HTML page: the tables of `retrace compare`, and learning curves."""

import math
import shlex
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import jinja2
import numpy as np

from retrace.compare import comparison as compared
from retrace.compare import svg
from retrace.compare.comparison import Comparison, History
from retrace.compare.svg import Axis, Chart, Line, Marker

COLORS = 8  # in the page's style; the ninth experiment has the color of the first
MARKED = 60  # epochs; longer curves have no markers
SPLITS = {"val": False, "train": True}  # prefixes of metrics, and whether their lines are dashed


def page(comparison: Comparison) -> str:
    """Return the page as HTML."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["svg"] = svg.render
    names = [each.name for each in comparison.experiments]
    n_tests = sum(test.pairs is not None for test in comparison.tests)
    tests = [(test, compared.sentence(test, n_tests).split("\n")) for test in comparison.tests]
    return environment.get_template("page.html.jinja").render(
        compared=comparison,
        names=names,
        tests=tests,
        charts=list(charts(names, comparison.histories)),
        shown=compared.shown,
        change=compared.change,
        colors=COLORS,
        command=shlex.join(["retrace", "compare", *names]),
        date=f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
    )


def charts(names: Sequence[str], histories: Sequence[History]) -> Iterator[Chart]:
    """Yield a chart of the loss and one of the accuracy, if any experiment has a curve.

    Losses are on a logarithmic axis, which separates small ones.
    """
    for what in ("loss", "accuracy"):
        metrics = {f"{split}_{what}": dashed for split, dashed in SPLITS.items()}
        rows = [row for history in histories for row in history]
        values = [row[metric] for row in rows for metric in metrics if _has(row, metric)]
        if not values:
            continue
        epochs = [row["epoch"] for row in rows if any(_has(row, metric) for metric in metrics)]
        is_share = what == "accuracy"
        x = svg.fit_axis(epochs, "epoch", integer=True)
        y = svg.fit_axis(values, what, log=not is_share, most=1.0 if is_share else math.inf)
        lines = [
            _line(history, metric, name, number % COLORS, x, y, dashed=dashed)
            for number, (name, history) in enumerate(zip(names, histories, strict=True))
            for metric, dashed in metrics.items()
            if any(_has(row, metric) for row in history)
        ]
        title = f"{what.capitalize()} by epoch"
        yield Chart(title, f"{title} of {', '.join(names)}", x, y, lines)


def _line(
    history: History, metric: str, name: str, color: int, x: Axis, y: Axis, *, dashed: bool
) -> Line:
    """Return an experiment's curve; a short one has a marker with the value at each epoch."""
    rows = [row for row in history if _has(row, metric)]
    epochs = np.array([row["epoch"] for row in rows])
    values = np.array([row[metric] for row in rows])
    markers = []
    if len(rows) <= MARKED:
        points = svg.points(x, epochs, y, values).tolist()
        for (across, down), epoch, value in zip(points, epochs, values, strict=True):
            text = f"{name}, epoch {epoch:.0f}: {metric} {value:.6g}"
            markers.append(Marker(across, down, text))
    return Line(svg.path(x, epochs, y, values), color, dashed=dashed, markers=markers)


def _has(row: Mapping[str, float], metric: str) -> bool:
    """Return whether a row has a finite value of the metric."""
    return math.isfinite(row.get(metric, math.nan)) and "epoch" in row
