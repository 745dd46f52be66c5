"""Experiments side by side as a page: the tables of `retrace compare`, and their learning curves over one another."""

import math
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import jinja2

from retrace import compared
from retrace.compared import Comparison, History

WIDTH, HEIGHT, LEFT, BOTTOM, MARGIN = 640, 320, 64, 36, 12  # of a chart and around it, in its own units
COLOURS = 8  # that the page's style has; a ninth experiment has the first's
TICKS = 8  # at most, on an axis
DOTS = 60  # epochs, up to which each has a dot that says its value
LINES = {"val": "", "train": "5 4"}  # beginnings of metrics, and how their lines are dashed

Scale = Callable[[float], float]


@dataclass(frozen=True)
class Line:
    """A curve of the experiment of this number; each point is x, y and what its dot says."""

    number: int
    dashes: str
    points: Sequence[tuple[float, float, str]]
    has_dots: bool


@dataclass(frozen=True)
class Chart:
    """Curves over the epochs; ticks are where and what they say."""

    title: str
    x_ticks: Sequence[tuple[float, str]]
    y_ticks: Sequence[tuple[float, str]]
    lines: Sequence[Line]


def page(comparison: Comparison) -> str:
    """The whole page."""
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    pages = jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    names = [each.name for each in comparison.experiments]
    n_tests = sum(test.pairs is not None for test in comparison.tests)
    return pages.get_template("page.html.jinja").render(
        compared=comparison,
        names=names,
        tests=[(test, compared.sentence(test, n_tests).split("\n")) for test in comparison.tests],
        charts=list(charts(names, comparison.histories)),
        shown=compared.shown,
        change=compared.change,
        colours=COLOURS,
        size={"width": WIDTH, "height": HEIGHT, "left": LEFT, "bottom": HEIGHT - BOTTOM, "right": WIDTH - MARGIN},
        command=shlex.join(["retrace", "compare", *names]),
        made=f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
    )


def charts(names: Sequence[str], histories: Sequence[History]) -> Iterator[Chart]:
    """Of the loss and the accuracy, as far as some experiment has a curve of it; losses on a scale of powers, on which
    small ones can be told apart.
    """
    last = max((row["epoch"] for history in histories for row in history), default=1.0)
    for what in ("loss", "accuracy"):
        metrics = [f"{part}_{what}" for part in LINES]
        values = [row[name] for history in histories for row in history for name in metrics if _is_there(row, name)]
        if not values:
            continue
        x, x_ticks = _axis(min(1.0, last), max(last, 2.0), LEFT, WIDTH - MARGIN, by_powers=False)
        by_powers = what == "loss" and min(values) > 0
        y, y_ticks = _axis(min(values), max(values), HEIGHT - BOTTOM, MARGIN, by_powers=by_powers)
        lines = [
            Line(number % COLOURS, dashes, list(_points(history, f"{part}_{what}", name, x, y)), len(history) <= DOTS)
            for number, (name, history) in enumerate(zip(names, histories, strict=True))
            for part, dashes in LINES.items()
        ]
        whole = [(at, said) for at, said in x_ticks if "." not in said]  # there is no half of an epoch
        yield Chart(what, whole, y_ticks, [line for line in lines if line.points])


def _points(history: History, metric: str, name: str, x: Scale, y: Scale) -> Iterator[tuple[float, float, str]]:
    for row in history:
        if _is_there(row, metric):
            said = f"{name}, epoch {row['epoch']:.0f}: {metric} {row[metric]:.6g}"
            yield round(x(row["epoch"]), 1), round(y(row[metric]), 1), said


def _is_there(row: Mapping[str, float], metric: str) -> bool:
    return math.isfinite(row.get(metric, math.nan)) and "epoch" in row


def _axis(
    least: float, most: float, begin: float, end: float, *, by_powers: bool
) -> tuple[Scale, list[tuple[float, str]]]:
    """Where a value from `least` to `most` is drawn between `begin` and `end`, and the ticks at round values."""
    if least == most:
        least, most = (least * 0.9, most * 1.1) if by_powers else (least - 0.5, most + 0.5)
    curve: Scale = math.log if by_powers else float
    low, high = curve(least), curve(most)

    def scale(value: float) -> float:
        return begin + (end - begin) * (curve(value) - low) / (high - low)

    ticks = _powers(least, most) if by_powers else _steps(least, most)
    return scale, [(round(scale(tick), 1), f"{tick:.6g}") for tick in ticks]


def _steps(least: float, most: float) -> list[float]:
    """Round values at equal distances."""
    power = 10.0 ** math.floor(math.log10((most - least) / TICKS))
    step = next(step for step in (power, 2 * power, 5 * power, 10 * power) if (most - least) / step <= TICKS)
    return [step * i for i in range(math.ceil(least / step), math.floor(most / step) + 1)]


def _powers(least: float, most: float) -> list[float]:
    """Powers of ten, and twice and five times as much if there is room; equal steps where there is no power."""
    decades = range(math.floor(math.log10(least)), math.ceil(math.log10(most)) + 1)
    for factors in ((1, 2, 5), (1,)):
        ticks = [factor * 10.0**decade for decade in decades for factor in factors]
        inside = [tick for tick in ticks if least <= tick <= most]
        if 2 <= len(inside) <= TICKS:
            return inside
    return _steps(least, most) if most < 10 * least else inside[:: len(inside) // TICKS + 1]
