"""Render a comparison as an HTML page: the tables of `retrace compare`, and learning curves."""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import jinja2
import numpy as np

from retrace.compare import comparison as compared
from retrace.compare import curves, svg
from retrace.compare.comparison import Comparison
from retrace.compare.curves import History
from retrace.compare.svg import Axis, Chart, Line, Marker
from retrace.pipeline import metrics
from retrace.system.text import command

COLORS = 8  # in the page's style; the ninth experiment has the color of the first
MARKED = 60  # steps; longer curves have no markers
MAX_CHARTS = 24
SPLIT = re.compile(  # what the name of a metric begins with: val_loss, train/loss, eval.loss
    r"(?P<split>train|val|dev|eval|test)(ing|id|idation|uation)?[\W_]+(?P<quantity>.+)",
    re.IGNORECASE,
)


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
        kinds={test.pairs.test for test in comparison.tests if test.pairs},
        charts=list(charts(names, comparison.histories)),
        shown=compared.shown,
        change=compared.change,
        colors=COLORS,
        command=command("retrace", "compare", *names),
        date=f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
    )


def charts(names: Sequence[str], histories: Sequence[History]) -> Iterator[Chart]:
    """Yield a chart for each quantity that any experiment has a curve of, such as the loss.

    It has the curves of all splits; those of training are dashed. What should be low is on a
    logarithmic axis, which separates small values.
    """
    counter = next(filter(None, map(curves.counter_of, histories)), None)
    if counter is None:
        return
    columns = dict.fromkeys(name for rows in histories for row in rows for name in row)
    quantities: dict[str, list[str]] = {}
    for column in columns:
        if column != counter:
            quantities.setdefault(_parts(column)[1], []).append(column)
    for quantity, own in list(quantities.items())[:MAX_CHARTS]:
        if any(_has(row, own, counter) for history in histories for row in history):
            yield _chart(names, histories, quantity, own, counter)


def _chart(
    names: Sequence[str],
    histories: Sequence[History],
    quantity: str,
    columns: Sequence[str],
    counter: str,
) -> Chart:
    rows = [row for history in histories for row in history if _has(row, columns, counter)]
    steps = [row[counter] for row in rows]
    values = [row[column] for row in rows for column in columns if _has(row, [column], counter)]
    is_low = metrics.is_minimized(quantity)
    is_share = not is_low and 0 <= min(values) <= max(values) <= 1
    x = svg.fit_axis(steps, counter, integer=all(step % 1 == 0 for step in steps))
    y = svg.fit_axis(values, quantity, log=is_low, most=1.0 if is_share else math.inf)
    measured = {column: _parts(column)[0] for column in columns}
    has_split = any(split not in ("", "train") for split in measured.values())
    lines = [
        _line(history, column, name, number % COLORS, x, y, dashed=is_dashed)
        for number, (name, history) in enumerate(zip(names, histories, strict=True))
        for column, split in measured.items()
        # Keras calls that of training `loss`, beside `val_loss`.
        for is_dashed in [split == "train" or (not split and has_split)]
        if any(_has(row, [column], counter) for row in history)
    ]
    title = f"{quantity.capitalize()} by {counter}"
    return Chart(title, f"{title} of {', '.join(names)}", x, y, lines)


def _line(
    history: History, metric: str, name: str, color: int, x: Axis, y: Axis, *, dashed: bool
) -> Line:
    """Return an experiment's curve; a short one has a marker with the value at each step."""
    rows = [row for row in history if _has(row, [metric], x.label)]
    steps = np.array([row[x.label] for row in rows])
    values = np.array([row[metric] for row in rows])
    markers = []
    if len(rows) <= MARKED:
        points = svg.points(x, steps, y, values).tolist()
        for (across, down), step, value in zip(points, steps, values, strict=True):
            text = f"{name}, {x.label} {step:g}: {metric} {value:.6g}"
            markers.append(Marker(across, down, text))
    return Line(svg.path(x, steps, y, values), color, dashed=dashed, markers=markers)


def _parts(metric: str) -> tuple[str, str]:
    """Return the split that a metric begins with, or an empty text, and the rest of its name."""
    parts = SPLIT.fullmatch(metric)
    return (parts["split"].lower(), parts["quantity"]) if parts else ("", metric)


def _has(row: Mapping[str, float], metrics: Sequence[str], counter: str) -> bool:
    """Return whether a row has a finite value of one of the metrics."""
    is_finite = (math.isfinite(row.get(metric, math.nan)) for metric in metrics)
    return counter in row and any(is_finite)
