"""The factor on the peak learning rate when the fraction `done` of all steps (0..1) is over, by name in params.yaml.

To add one: a pure function here with its settings as keyword-only arguments, a line in the table, its settings under
`schedules:`.
"""

import math
from collections.abc import Callable

from retrace.params import Fraction


def constant(done: float) -> float:  # noqa: ARG001 - a schedule is a function of it
    """1."""
    return 1.0


def one_cycle(done: float, *, warmup_fraction: Fraction) -> float:
    """Up in a line from 0 to 1 for `warmup_fraction`, then down half a cosine to 0 (Smith 2018, arXiv:1803.09820)."""
    if done < warmup_fraction:
        return done / warmup_fraction
    return (1 + math.cos(math.pi * (done - warmup_fraction) / (1 - warmup_fraction))) / 2


SCHEDULES: dict[str, Callable[..., float]] = {
    "constant": constant,
    "one_cycle": one_cycle,
}
