"""Curves as lines on a plane: what a template draws as SVG, in the colours of the reader's theme."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

WIDTH, HEIGHT = 400, 230  # of the plane between the axes, in units of the drawing
TICKS = 5  # on an axis, about
STEPS = (1, 2, 2.5, 5, 10)  # between ticks, times a power of ten
MARGIN = 0.05  # of an axis, beyond the values


@dataclass(frozen=True)
class Axis:
    """From `low` to `high`, which is more; in logarithms, in percent, or with ticks at whole numbers alone."""

    label: str
    low: float
    high: float
    log: bool = False
    percent: bool = False
    whole: bool = False

    def places(self, values: Iterable[float]) -> np.ndarray:
        """Where `values` are, 0 at `low` and 1 at `high`."""
        shown, ends = np.asarray(list(values), dtype=np.float64), np.array([self.low, self.high])
        if self.log:
            shown, ends = np.log(np.maximum(shown, self.low / 10)), np.log(ends)
        return (shown - ends[0]) / (ends[1] - ends[0])

    @property
    def ticks(self) -> list[tuple[float, str]]:
        """Places on the axis and what is written there."""
        values, texts = self._logarithmic() if self.log else self._linear()
        return list(zip(self.places(values).tolist(), texts, strict=True))

    def _linear(self) -> tuple[list[float], list[str]]:
        least = (self.high - self.low) / TICKS
        power = 10.0 ** math.floor(math.log10(least))
        step = next(times * power for times in STEPS if times * power >= 0.999 * least)
        step = max(1.0, math.ceil(step)) if self.whole else step
        values = [i * step for i in range(math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9) + 1)]
        unit = 100 if self.percent else 1
        decimals = max(0, -math.floor(math.log10(step * unit)))
        decimals += (step * unit * 10**decimals) % 1 > 1e-6  # as of 0.25
        return values, [f"{value * unit:,.{decimals}f}{'%' if self.percent else ''}" for value in values]

    def _logarithmic(self) -> tuple[list[float], list[str]]:
        first, last = math.floor(math.log10(self.low)), math.ceil(math.log10(self.high))
        times = (1, 2, 5) if last - first <= 3 else (1,)
        tens = range(first, last + 1, max(1, (last - first) // 8))
        values = [n * 10.0**power for power in tens for n in times]
        values = [value for value in values if self.low * 0.999 <= value <= self.high * 1.001]
        if len(values) < 3:
            return self._linear()
        return values, [f"{value:g}" for value in values]


@dataclass(frozen=True)
class Line:
    """A path of SVG on the plane; lines of one `colour` have one name."""

    path: str
    colour: int
    name: str = ""
    dashed: bool = False


@dataclass(frozen=True)
class Chart:
    title: str
    alt: str  # what is to be seen, for who does not see it
    x: Axis
    y: Axis
    lines: Sequence[Line]


def around(values: Iterable[float], label: str, *, log: bool = False, most: float = math.inf, **kind: bool) -> Axis:
    """An axis with room for all `values`, up to `most`; logarithmic only if all of them are above 0."""
    shown = np.asarray(list(values), dtype=np.float64)
    low, high = float(shown.min()), float(shown.max())
    if log and low > 0:
        room = (high / low) ** MARGIN if high > low else 2.0
        return Axis(label, low / room, high * room, log=True, **kind)
    room = (high - low) * MARGIN or abs(high) / 10 or 1.0
    return Axis(label, low - room, min(most, high + room), **kind)


def path(x: Axis, xs: Iterable[float], y: Axis, ys: Iterable[float], *, stepped: bool = False) -> str:
    """Through the points, in tenths of a unit, without those that fall on the one before. `stepped` lines go on at
    their height until the next point.
    """
    points = np.column_stack([x.places(xs) * WIDTH, (1 - y.places(ys)) * HEIGHT]).round(1) + 0.0  # no minus zero
    points = points[np.append(True, (np.diff(points, axis=0) != 0).any(axis=1))]
    (first, *rest), last = points.tolist(), None
    said = [f"M{first[0]:g} {first[1]:g}"]
    for across, down in rest:
        if not stepped:
            said.append(f"L{across:g} {down:g}")
            continue
        said += [f"H{across:g}"] if last is None or last[0] != across else []
        said.append(f"V{down:g}")
        last = across, down
    if not rest:
        said.append("h0")  # a point, which the line's round ends show
    return "".join(said)


def level(y: Axis, value: float) -> str:
    """All across the plane."""
    return f"M0 {(1 - y.places([value])[0]) * HEIGHT:.1f}H{WIDTH}"
