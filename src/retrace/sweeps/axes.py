"""An axis of the search space: a range of numbers, or choices."""

import math
import re
import warnings
from collections.abc import Iterator
from typing import Any

from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import Trial

from retrace.errors import ParamsError

NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
RANGE = re.compile(rf"(log:)?({NUMBER}?)\.\.({NUMBER})(?::({NUMBER}))?")

Axis = CategoricalDistribution | FloatDistribution | IntDistribution


def parse_range(key: str, text: str, match: re.Match[str], *, whole: bool) -> Axis:
    """Return the axis that matches RANGE; `whole`, of integers. Raises ParamsError."""
    log, *ends = match.groups()
    whole = whole and all(end is None or re.fullmatch(r"[-+]?\d+", end) for end in ends)
    low, high, step = (None if end is None else int(end) if whole else float(end) for end in ends)
    assert low is not None  # noqa: S101 - the expression has both ends
    assert high is not None  # noqa: S101
    if not math.isfinite(low) or not math.isfinite(high) or low >= high:
        raise ParamsError(f"{key}: {text!r} should go from a lower number to a higher one")
    if log and (low <= 0 or step is not None):
        raise ParamsError(
            f"{key}: {text!r} should begin above 0 and have no step, because it is logarithmic"
        )
    if step is not None and not 0 < step <= high - low:
        raise ParamsError(f"{key}: {text!r} should have a step above 0 and at most {high - low:g}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Optuna warns if the range is not a multiple of the step
        if whole:
            return IntDistribution(int(low), int(high), log=bool(log), step=int(step or 1))
        return FloatDistribution(low, high, log=bool(log), step=step)


def ends(axis: Axis) -> list[Any]:
    """Return both ends of a range, or all choices."""
    return (
        list(axis.choices) if isinstance(axis, CategoricalDistribution) else [axis.low, axis.high]
    )


def suggested(trial: Trial, key: str, axis: Axis) -> Any:
    """Let Optuna suggest a value."""
    match axis:
        case CategoricalDistribution():
            return trial.suggest_categorical(key, axis.choices)
        case IntDistribution():
            return trial.suggest_int(key, axis.low, axis.high, step=axis.step, log=axis.log)
        case FloatDistribution():
            return trial.suggest_float(key, axis.low, axis.high, step=axis.step, log=axis.log)


def values(axis: Axis) -> Iterator[Any]:
    """Yield all values of choices, or of a range with steps."""
    match axis:
        case CategoricalDistribution():
            yield from axis.choices
        case IntDistribution():
            yield from range(axis.low, axis.high + 1, axis.step)
        case FloatDistribution(step=float(step)):
            yield from (
                axis.low + number * step
                for number in range(round((axis.high - axis.low) / step) + 1)
            )


def text(axis: Axis) -> str:
    """Return an axis as text, equal for equal axes."""
    if isinstance(axis, CategoricalDistribution):
        return ",".join(map(str, axis.choices))
    step = (
        ""
        if axis.step in (None, 1) and not (isinstance(axis, FloatDistribution) and axis.step)
        else f":{axis.step}"
    )
    return f"{'log:' if axis.log else ''}{axis.low}..{axis.high}{step}"
