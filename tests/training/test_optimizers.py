"""Optimizers: each minimizes; gradient descent from scratch equals the library's."""

import pytest
import torch
from torch import nn, optim

from lab.models.networks import softmax_scratch
from lab.training.losses import cross_entropy_scratch
from lab.training.optimizers import OPTIMIZERS, sgd
from retrace.pipeline import params_yaml


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizers_minimize_a_square(values: params_yaml.Values, name: str) -> None:
    weight = nn.Parameter(torch.tensor([3.0, -2.0]))
    optimizer = OPTIMIZERS[name]([weight], **values["optimizers"][name])
    for group in optimizer.param_groups:
        group["lr"] = 0.05
    for _ in range(300):
        (weight**2).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    assert weight.detach().norm() < 0.1


def test_softmax_from_scratch_equals_torch(values: params_yaml.Values) -> None:
    torch.manual_seed(0)
    images = torch.rand(512, 1, 28, 28)
    labels = torch.randint(10, (512,))
    ours = nn.Sequential(
        *softmax_scratch.build((1, 28, 28), 10, **values["models"]["softmax_scratch"])
    )
    linear = nn.Linear(784, 10)
    linear.load_state_dict(
        {"weight": ours.state_dict()["1.weight"], "bias": ours.state_dict()["1.bias"]}
    )
    theirs = nn.Sequential(nn.Flatten(), linear)
    pairs = [
        (
            ours,
            cross_entropy_scratch(torch.full((10,), 51)),
            OPTIMIZERS["sgd_scratch"](ours.parameters()),
        ),
        (theirs, nn.CrossEntropyLoss(), optim.SGD(theirs.parameters())),
    ]
    for model, loss, optimizer in pairs:
        optimizer.param_groups[0]["lr"] = 0.1
        for _ in range(10):
            for x, y in zip(images.split(256), labels.split(256), strict=True):
                loss(model(x), y).backward()
                optimizer.step()
                optimizer.zero_grad()
    torch.testing.assert_close(
        ours.state_dict()["1.weight"], linear.weight.detach(), rtol=1e-5, atol=1e-5
    )
    torch.testing.assert_close(ours(images), theirs(images), rtol=1e-5, atol=1e-5)


def test_sgd_without_momentum_has_no_nesterov() -> None:
    weights = [nn.Parameter(torch.zeros(1))]
    optimizer = sgd(weights, momentum=0.0, nesterov=True, weight_decay=0.0)
    assert not optimizer.param_groups[0]["nesterov"]
