"""Render line charts as SVG: axes with ticks at round values, and lines as paths.

Colors are classes `c0`, `c1` and so on, which the page's style defines for its themes.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

WIDTH, HEIGHT = 400, 230  # of the area between the axes, in SVG units
TICKS = 5  # on an axis, about
STEPS = (1, 2, 2.5, 5, 10)  # between ticks, times a power of ten
MARGIN = 0.05  # beyond the values, as a share of their range

TEMPLATE = """\
<svg class="chart" viewBox="-70 -8 482 282" role="img" aria-label="{{ chart.description }}">
{% for position, text in chart.y.ticks %}
{% set y = ((1 - position) * height)|round(1) %}
<path class="grid" d="M0 {{ y }}H{{ width }}"/>
<text x="-7" y="{{ y }}" text-anchor="end" dominant-baseline="central">{{ text }}</text>
{% endfor %}
{% for position, text in chart.x.ticks %}
{% set x = (position * width)|round(1) %}
<path class="grid" d="M{{ x }} 0V{{ height }}"/>
<text x="{{ x }}" y="{{ height + 16 }}" text-anchor="middle">{{ text }}</text>
{% endfor %}
<text x="{{ width / 2 }}" y="{{ height + 38 }}" text-anchor="middle">{{ chart.x.label }}</text>
<text transform="translate(-60 {{ height / 2 }}) rotate(-90)" text-anchor="middle">
{{- chart.y.label }}</text>
<svg width="{{ width }}" height="{{ height }}" overflow="hidden">
{% for line in chart.lines %}
<path class="line c{{ line.color }}{{ " dashed" if line.dashed }}" d="{{ line.path }}"/>
{% for marker in line.markers %}
<circle class="marker c{{ line.color }}" cx="{{ marker.x }}" cy="{{ marker.y }}" r="2.6">
{{- "" }}<title>{{ marker.text }}</title></circle>
{% endfor %}
{% endfor %}
</svg>
<rect class="frame" width="{{ width }}" height="{{ height }}"/>
</svg>
{% if chart.lines[0].name %}
<ul class="legend">
{% for line in chart.lines %}
<li><svg viewBox="0 0 26 14" aria-hidden="true">
{{- "" }}<path class="line c{{ line.color }}{{ " dashed" if line.dashed }}" d="M0 7H26"/></svg>
{{- line.name }}</li>
{% endfor %}
</ul>
{% endif %}
"""


@dataclass(frozen=True)
class Axis:
    """A range of values, with a logarithmic scale, in percent, or with integer ticks only."""

    label: str
    low: float
    high: float
    log: bool = False
    percent: bool = False
    integer: bool = False

    def positions(self, values: Iterable[float]) -> np.ndarray:
        """Scale `values` to 0 at `low` and 1 at `high`."""
        scaled = np.asarray(list(values), dtype=np.float64)
        ends = np.array([self.low, self.high])
        if self.log:
            scaled = np.log(np.maximum(scaled, self.low / 10))
            ends = np.log(ends)
        return (scaled - ends[0]) / (ends[1] - ends[0])

    @property
    def ticks(self) -> list[tuple[float, str]]:
        """The positions of the ticks, with their labels."""
        values, texts = self._log_ticks() if self.log else self._linear_ticks()
        return list(zip(self.positions(values).tolist(), texts, strict=True))

    def _linear_ticks(self) -> tuple[list[float], list[str]]:
        smallest = (self.high - self.low) / TICKS
        power = 10.0 ** math.floor(math.log10(smallest))
        step = next(times * power for times in STEPS if times * power >= 0.999 * smallest)
        if self.integer:
            step = max(1.0, math.ceil(step))
        first = math.ceil(self.low / step - 1e-9)
        last = math.floor(self.high / step + 1e-9)
        values = [i * step for i in range(first, last + 1)]
        unit = 100 if self.percent else 1
        decimals = max(0, -math.floor(math.log10(step * unit)))
        if (step * unit * 10**decimals) % 1 > 1e-6:  # such as 0.25
            decimals += 1
        sign = "%" if self.percent else ""
        return values, [f"{value * unit:,.{decimals}f}{sign}" for value in values]

    def _log_ticks(self) -> tuple[list[float], list[str]]:
        first = math.floor(math.log10(self.low))
        last = math.ceil(math.log10(self.high))
        factors = (1, 2, 5) if last - first <= 3 else (1,)
        powers = range(first, last + 1, max(1, -(-(last - first) // 8)))
        values = [factor * 10.0**power for power in powers for factor in factors]
        low, high = self.low * 0.999, self.high * 1.001
        values = [value for value in values if low <= value <= high]
        if len(values) < 3:
            return self._linear_ticks()
        return values, [f"{value:g}" for value in values]


class Marker(NamedTuple):
    """A point of a line, with the text of its tooltip."""

    x: float
    y: float
    text: str


@dataclass(frozen=True)
class Line:
    """An SVG path in one of the page's colors. Either all lines of a chart have names, or none."""

    path: str
    color: int
    name: str = ""
    dashed: bool = False
    markers: Sequence[Marker] = ()


@dataclass(frozen=True)
class Chart:
    """Lines over two axes; `description` is for screen readers."""

    title: str
    description: str
    x: Axis
    y: Axis
    lines: Sequence[Line]


def fit_axis(
    values: Iterable[float],
    label: str,
    *,
    log: bool = False,
    most: float = math.inf,
    percent: bool = False,
    integer: bool = False,
) -> Axis:
    """Return an axis with room around all `values`, up to `most`.

    It is logarithmic only if all values are positive.
    """
    shown = np.asarray(list(values), dtype=np.float64)
    low, high = float(shown.min()), float(shown.max())
    if log and low > 0:
        room = (high / low) ** MARGIN if high > low else 2.0
        return Axis(label, low / room, high * room, log=True, percent=percent, integer=integer)
    room = (high - low) * MARGIN
    if not room:
        room = 0.5 if integer else abs(high) / 10 or 1.0
    return Axis(label, low - room, min(most, high + room), percent=percent, integer=integer)


def points(x: Axis, xs: Iterable[float], y: Axis, ys: Iterable[float]) -> np.ndarray:
    """Return the coordinates (n, 2), rounded to tenths of a unit."""
    coordinates = np.column_stack([x.positions(xs) * WIDTH, (1 - y.positions(ys)) * HEIGHT])
    return coordinates.round(1) + 0.0  # no minus zero


def path(
    x: Axis, xs: Iterable[float], y: Axis, ys: Iterable[float], *, stepped: bool = False
) -> str:
    """Return a path through the points, without those that equal the one before.

    A `stepped` line keeps its height until the next point.
    """
    coordinates = points(x, xs, y, ys)
    is_new = np.append(True, (np.diff(coordinates, axis=0) != 0).any(axis=1))
    first, *rest = coordinates[is_new].tolist()
    commands = [f"M{first[0]:g} {first[1]:g}"]
    at = None
    for across, down in rest:
        if not stepped:
            commands.append(f"L{across:g} {down:g}")
            continue
        if across != at:
            commands.append(f"H{across:g}")
        commands.append(f"V{down:g}")
        at = across
    if not rest:
        commands.append("h0")  # a point, which round line ends make visible
    return "".join(commands)


def level(y: Axis, value: float) -> str:
    """Return a horizontal line at `value`."""
    return f"M0 {(1 - y.positions([value])[0]) * HEIGHT:.1f}H{WIDTH}"


def render(chart: Chart) -> Markup:
    """Return the chart as SVG, and below it a legend if its lines have names."""
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    template = environment.from_string(TEMPLATE)
    return Markup(template.render(chart=chart, width=WIDTH, height=HEIGHT))  # noqa: S704 - escaped
