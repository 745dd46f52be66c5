"""Compare a run's outputs and metrics with those of its reproduction: a verdict for each."""

import math
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

# Metrics that count: n_leaves, kept_epoch, best_iteration.
COUNT = re.compile(
    r"(n|num|number)_.*|(.*[^a-z])?(epoch|step|iteration|iter|round|trial)s?", re.IGNORECASE
)

SAME, DIFFERS, MISSING, UNASKED = "same", "differs", "missing", "may differ"

# A metric's value by step, or by name if it has no steps, such as a summary metric.
Points = Mapping[int | str, float]
Fact = str | Points  # the MD5 of a file, or a metric
Facts = Mapping[tuple[str, str], Fact]  # (stage, path) -> MD5, (stage, metric) -> points


@dataclass(frozen=True)
class OutputDiff:
    """One output or metric of a stage. `where` is the step at which a metric differs first."""

    stage: str
    what: str
    then: str
    now: str
    verdict: str
    where: str = ""

    @property
    def is_equal(self) -> bool:
        """Return whether it was reproduced, or may differ on another device."""
        return self.verdict not in (DIFFERS, MISSING)


def is_exact(stage: str, exact: Sequence[str]) -> bool:
    """Return whether a stage is one of these, in which `*` stands for any text."""
    return any(fnmatchcase(stage, pattern) for pattern in exact)


def compare_facts(
    then: Facts, now: Facts, tolerance: float | None = None, exact: Sequence[str] = ()
) -> list[OutputDiff]:
    """Compare everything that either side has.

    `tolerance` is None for the same kind of device. On another kind, files, curves and counts may
    differ, but for those of the stages in `exact`. Final values and summary metrics may differ by
    up to `tolerance`, which is a share of values above 1.
    """
    rows = []
    for stage, what in dict.fromkeys([*then, *now]):
        one = then.get((stage, what))
        other = now.get((stage, what))
        allowed = None if is_exact(stage, exact) else tolerance
        if isinstance(one, str) or isinstance(other, str):
            rows.append(_file(stage, what, str(one or ""), str(other or ""), allowed))
        else:
            rows.append(_metric(stage, what, one or {}, other or {}, allowed))
    return rows


def _file(stage: str, path: str, then: str, now: str, tolerance: float | None) -> OutputDiff:
    if not then or not now:
        verdict = MISSING
    elif then == now:
        verdict = SAME
    else:
        verdict = DIFFERS if tolerance is None else UNASKED
    return OutputDiff(stage, path, then[:12], now[:12], verdict)


def _metric(
    stage: str, name: str, then: Points, now: Points, tolerance: float | None
) -> OutputDiff:
    if tolerance is not None:
        then = _final(then)
        now = _final(now)
    points = list(dict.fromkeys([*then, *now]))
    missing = [point for point in points if point not in then or point not in now]
    apart = [
        point for point in points if point not in missing and not _is_same(then[point], now[point])
    ]
    if missing:
        verdict = MISSING
    elif not apart:
        verdict = SAME
    elif tolerance is None:
        verdict = DIFFERS
    elif COUNT.fullmatch(name):
        verdict = UNASKED
    else:
        near = all(
            abs(then[point] - now[point]) <= tolerance * max(1.0, abs(then[point]))
            for point in apart
        )
        verdict = f"within {tolerance:g}" if near else DIFFERS
    shown = next(iter(missing + apart), points[-1])
    where = f"step {shown}" if isinstance(shown, int) else shown
    one, other = _shown(then.get(shown), now.get(shown))
    return OutputDiff(
        stage, name, one, other, verdict, where if verdict != SAME and len(points) > 1 else ""
    )


def _final(points: Points) -> Points:
    """Keep only the last step: on another device, training may stop at another epoch."""
    last = max((point for point in points if isinstance(point, int)), default=None)
    final: dict[int | str, float] = {} if last is None else {"last": points[last]}
    return final | {point: value for point, value in points.items() if isinstance(point, str)}


def _is_same(one: float, other: float) -> bool:
    if math.isnan(one) or math.isnan(other):
        return math.isnan(one) and math.isnan(other)
    return _finite(one) == _finite(other)


def _finite(value: float) -> float:
    """Return a number as MLflow stores it: infinity as the largest number."""
    return max(-sys.float_info.max, min(sys.float_info.max, value))


def _shown(one: float | None, other: float | None) -> tuple[str, str]:
    """Return both in six digits, or in all digits if they differ only after the sixth."""
    short = tuple("" if value is None else f"{value:.6g}" for value in (one, other))
    if short[0] == short[1] and one is not None and other is not None and not _is_same(one, other):
        return str(one), str(other)
    return short[0], short[1]
