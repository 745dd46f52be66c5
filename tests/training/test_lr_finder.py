"""The learning-rate range test: the rates it tries, when it stops, what it suggests."""

from itertools import pairwise

import pytest
from trainings import Training

from lab.data.samples import Samples
from lab.training import lr_finder
from lab.training.lr_finder import Point
from retrace.errors import RetraceError

pytestmark = pytest.mark.usefixtures("folder")


def test_rates_rise_by_a_constant_factor(stripes: Samples) -> None:
    points = lr_finder.test(Training(stripes, optimizer="sgd").trainer, 29)
    factor = (lr_finder.HIGHEST / lr_finder.LOWEST) ** (1 / 28)
    assert points[0].lr == lr_finder.LOWEST
    assert [b.lr / a.lr for a, b in pairwise(points)] == pytest.approx([factor] * (len(points) - 1))


def test_smoothed_loss_is_debiased(stripes: Samples) -> None:
    first, second, *_ = lr_finder.test(Training(stripes).trainer, 60)
    assert first.smoothed == pytest.approx(first.loss)
    # Weights 0.09 and 0.1 of the first two, by hand.
    assert second.smoothed == pytest.approx((0.09 * first.loss + 0.1 * second.loss) / 0.19)


def test_divergence_ends_the_test(stripes: Samples) -> None:
    points = lr_finder.test(Training(stripes, optimizer="sgd_scratch").trainer, 100)
    assert len(points) < 100
    below = [point.smoothed for point in points[:-1]]
    assert max(below) <= lr_finder.DIVERGED * min(below)


def test_suggestion_is_a_tenth_of_the_best() -> None:
    points = [Point(0.01, 3.0, 3.0), Point(0.0456, 1.0, 2.0), Point(0.2, 9.0, 4.0)]
    assert lr_finder.suggestion(points) == 0.0046


def test_suggestion_learns(stripes: Samples) -> None:
    rate = lr_finder.suggestion(lr_finder.test(Training(stripes).trainer, 100))
    assert Training(stripes, lr=rate, epochs=6).run().val_accuracy > 0.9


def test_rising_loss_has_no_suggestion(stripes: Samples, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lr_finder, "LOWEST", 1e3)
    monkeypatch.setattr(lr_finder, "HIGHEST", 1e5)
    with pytest.raises(RetraceError, match="no suggestion"):
        lr_finder.test(Training(stripes, optimizer="sgd_scratch", model="softmax").trainer, 20)
