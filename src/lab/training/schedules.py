"""Learning rate schedules, by the name in params.yaml: factors of the peak learning rate.

To add one: a pure function of the moment here, with its settings as keyword-only arguments; a line
in the table; its settings under `schedules:`. A schedule has no state that a checkpoint would need.
"""

import math
from collections.abc import Callable, Sequence
from typing import Annotated, NamedTuple

from pydantic import Field

from lab.params import Fraction

Epochs = Annotated[int, Field(ge=1)]


class Moment(NamedTuple):
    """What a schedule is a function of: the middle of a step."""

    done: float  # the share of all steps that is over, 0..1
    epoch: int  # epochs that are over
    val_losses: Sequence[float]  # of these


def constant(at: Moment) -> float:  # noqa: ARG001 - a schedule is a function of it
    """Keep the learning rate at its peak."""
    return 1.0


def multistep(at: Moment, *, milestones: list[Epochs], gamma: Fraction) -> float:
    """Multiply by `gamma` after each milestone (tutorial 002, section 12.3: MultiStepLR)."""
    return gamma ** sum(milestone <= at.epoch for milestone in milestones)


def one_cycle(at: Moment, *, warmup_fraction: Fraction) -> float:
    """Rise linearly from 0 to 1 during warm-up, then fall to 0 along half a cosine.

    Smith 2018, arXiv:1803.09820.
    """
    if at.done < warmup_fraction:
        return at.done / warmup_fraction
    return (1 + math.cos(math.pi * (at.done - warmup_fraction) / (1 - warmup_fraction))) / 2


def cosine(at: Moment) -> float:
    """Fall from 1 to 0 along half a cosine.

    Loshchilov and Hutter 2017, arXiv:1608.03983, without restarts.
    """
    return (1 + math.cos(math.pi * at.done)) / 2


def plateau(at: Moment, *, patience: Epochs, factor: Fraction) -> float:
    """Multiply by `factor` after every `patience` epochs without a new lowest validation loss."""
    lowest = math.inf
    n_waited = 0
    n_cuts = 0
    for loss in at.val_losses:
        n_waited = 0 if loss < lowest else n_waited + 1
        lowest = min(lowest, loss)
        if n_waited == patience:
            n_cuts += 1
            n_waited = 0
    return factor**n_cuts


SCHEDULES: dict[str, Callable[..., float]] = {
    "constant": constant,
    "multistep": multistep,
    "one_cycle": one_cycle,
    "cosine": cosine,
    "plateau": plateau,
}
