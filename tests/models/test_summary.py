"""The table of a model's layers."""

import torch
from torch import nn

from lab.models import summary
from lab.models.summary import Layer


def small_model() -> nn.Module:
    model = nn.Sequential(
        nn.Linear(3, 4), nn.Dropout(0.5), nn.Sequential(nn.Linear(4, 2)), nn.ReLU()
    )
    model[0].requires_grad_(requires_grad=False)
    return model


def test_layers_have_shapes_and_parameters() -> None:
    assert summary.layers(small_model(), torch.zeros(1, 3)) == [
        Layer("0", "Linear", (1, 4), 16),
        Layer("1", "Dropout", (1, 4), 0),
        Layer("2.0", "Linear", (1, 2), 10),
        Layer("3", "ReLU", (1, 2), 0),
    ]


def test_table_counts_trainable_parameters() -> None:
    lines = summary.table(small_model(), torch.zeros(1, 3)).splitlines()
    assert [line.split()[-1] for line in lines[:5]] == ["parameters", "16", "0", "10", "0"]
    assert lines[-1] == "parameters: 26, of which 10 are trainable"


def test_table_leaves_rng_and_hooks_alone() -> None:
    model = small_model().train()
    before = torch.get_rng_state()
    summary.table(model, torch.zeros(1, 3))
    assert torch.equal(torch.get_rng_state(), before)
    assert not any(layer._forward_hooks for layer in model.modules())
