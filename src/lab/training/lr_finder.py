"""The learning-rate range test: train for some steps while the learning rate rises.

Smith 2017, arXiv:1506.01186. The suggestion is a tenth of the learning rate at which the smoothed
loss is lowest (Howard and Gugger 2020, arXiv:2002.04688), where it still falls.
"""

import dataclasses
import math
from contextlib import suppress
from dataclasses import dataclass

from lab.data.batches import Split
from lab.errors import DivergedError
from lab.training.loop import Trainer
from lab.training.state import Epoch, Step
from retrace.errors import RetraceError

LOWEST = 1e-6
HIGHEST = 10.0
KEPT = 0.9  # weight of the steps before in the smoothed loss
DIVERGED = 4.0  # times the lowest smoothed loss
DIVISOR = 10.0
DIGITS = 2  # significant ones of the suggestion
ENDLESS = 10**9  # epochs


class EnoughError(Exception):
    """Raised by `on_step` to end the test early."""


@dataclass(frozen=True)
class Point:
    """A step of the test. `smoothed` is a mean of the losses so far, recent ones weigh more."""

    lr: float
    loss: float
    smoothed: float


def test(trainer: Trainer, n_steps: int) -> list[Point]:
    """Train the trainer's network while the learning rate rises from LOWEST to HIGHEST.

    Stop early when the loss has diverged. The network is of no use afterwards. Raises RetraceError
    if the loss never fell.
    """
    points: list[Point] = []
    mean = 0.0

    def rate(step: int) -> float:
        return LOWEST * (HIGHEST / LOWEST) ** (step / (n_steps - 1))

    def on_step(step: Step) -> None:
        nonlocal mean
        loss = step.loss.item()
        if not math.isfinite(loss):
            raise EnoughError
        mean = KEPT * mean + (1 - KEPT) * loss
        points.append(Point(step.learning_rate, loss, mean / (1 - KEPT**step.step)))
        lowest = min(point.smoothed for point in points)
        if step.step == n_steps or points[-1].smoothed > DIVERGED * lowest:
            raise EnoughError

    # A backbone that is frozen at first stays so: the first epochs need the learning rate most.
    settings = {"epochs": ENDLESS, "patience": 0, "keep": "last", "unfreeze_epoch": 0}
    testing = dataclasses.replace(
        trainer,
        learning_rate=lambda _: rate(trainer.state.step),
        # Each epoch ends with a validation, whose result is not used: one sample is enough.
        validation_split=_first(trainer.validation_split),
        p=trainer.p.model_copy(update=settings),
    )
    with suppress(EnoughError, DivergedError):
        testing.train(on_step, _ignore)
    if not points or lowest(points) is points[0]:
        raise RetraceError(
            f"the loss fell at no learning rate between {LOWEST:g} and {HIGHEST:g}, so there is "
            "no suggestion; check the labels, or use -S with another model or optimizer"
        )
    return points


def lowest(points: list[Point]) -> Point:
    """Return the step with the lowest smoothed loss."""
    return min(points, key=lambda point: point.smoothed)


def suggestion(points: list[Point]) -> float:
    """Return the suggested peak learning rate, with two significant digits."""
    return float(f"{lowest(points).lr / DIVISOR:.{DIGITS}g}")


def _first(split: Split) -> Split:
    return Split(split.inputs[:1], split.labels[:1])


def _ignore(_: Epoch) -> None:
    """Do nothing at the end of an epoch."""
