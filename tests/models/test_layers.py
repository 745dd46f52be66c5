"""Layers, against PyTorch's own."""

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from lab.models import layers
from lab.models.layers import AveragePool


@pytest.mark.parametrize("side", [(1, 1), (6, 6), (7, 7)])
@pytest.mark.parametrize("n", [1, 5, 7, 13, 14])
def test_average_pool_equals_torch(side: tuple[int, int], n: int) -> None:
    maps = torch.randn(2, 3, n, n + 2, requires_grad=True)
    ours = AveragePool(side)(maps)
    theirs = nn.AdaptiveAvgPool2d(side)(maps)
    torch.testing.assert_close(ours, theirs)
    gradients = [torch.autograd.grad(out.square().sum(), maps)[0] for out in (ours, theirs)]
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("n", [1, 50])
def test_linear_equals_torch(n: int) -> None:
    theirs = nn.Linear(7, 5)
    ours = layers.Linear(7, 5)
    ours.load_state_dict(theirs.state_dict())
    inputs = torch.randn(n, 7)
    results = []
    for layer in (theirs, ours):
        leaf = inputs.clone().requires_grad_()
        outputs = layer(leaf)
        outputs.square().sum().backward()
        results.append([outputs, leaf.grad, layer.weight.grad, layer.bias.grad])
    torch.testing.assert_close(*results)


@pytest.mark.parametrize("form", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(("tall", "wide"), [(2, 2), (7, 5), (28, 28)])
def test_max_pool_equals_torch(tall: int, wide: int, form: torch.memory_format) -> None:
    maps = torch.randn(3, 4, tall, wide).to(memory_format=form)
    maps[0, 0, 0, 1] = torch.nan
    pool = layers.MaxPool()
    theirs = F.max_pool2d(maps, 2)
    with torch.no_grad():
        pooled = pool(maps)
    assert torch.equal(pooled.nan_to_num(7.0), theirs.nan_to_num(7.0))
    assert pooled.is_contiguous(memory_format=form)
    gradient = pool(maps.requires_grad_()).grad_fn  # in which ties have one winner
    assert gradient is not None
    assert gradient.name() == "MaxPool2DWithIndicesBackward0"


def test_too_small_map_is_not_pooled() -> None:
    with torch.no_grad(), pytest.raises(RuntimeError, match="too small"):
        layers.MaxPool()(torch.zeros(1, 1, 1, 4))
