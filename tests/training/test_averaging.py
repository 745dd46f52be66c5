"""The moving average of the weights."""

import pytest
import torch
from torch import nn

from lab.data.storage import Scale
from lab.models.classifier import Classifier
from lab.training.averaging import Average

UNSCALED = Scale((0.0,), (1.0,))


def test_average_is_as_computed_by_hand() -> None:
    head = nn.Linear(1, 1, bias=False)
    nn.init.constant_(head.weight, 1.0)
    average = Average(Classifier(nn.Flatten(), head, UNSCALED, (1,)), 0.25)
    expected = 1.0
    for step, value in enumerate((5.0, -3.0, 2.0), start=1):
        nn.init.constant_(head.weight, value)
        average.update(step)
        decay = (2 / 11, 0.25, 0.25)[step - 1]  # (1 + 1) / (10 + 1), then the limit
        expected = decay * expected + (1 - decay) * value
        averaged = average.model.state_dict()["head.weight"]
        assert averaged.item() == pytest.approx(expected)
    assert head.weight.item() == 2.0


def test_running_statistics_are_averaged() -> None:
    norm = nn.BatchNorm1d(1)
    model = Classifier(norm, nn.Linear(1, 2), UNSCALED, (1,))
    average = Average(model, 0.9)
    norm(torch.tensor([[10.0], [30.0]]))
    average.update(1)
    averaged = average.model.state_dict()
    assert averaged["trunk.running_mean"].item() == pytest.approx(2.0 * 9 / 11)
    assert averaged["trunk.num_batches_tracked"].item() == 1
