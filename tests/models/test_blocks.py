"""The blocks of a backbone."""

import pytest
import torch
from torch import nn

from lab.models import backbone
from lab.models.blocks import blocks
from lab.models.networks import cnn

N_BLOCKS = {
    "resnet18": 9,  # the stem and eight residual blocks
    "vgg11_bn": 10,  # eight convolutions and two linear layers
    "vit_b_32": 13,  # patches and twelve layers
    "mobilenet_v2": 19,
    "densenet121": 8,  # the stem, four dense blocks, three transitions
    "convnext_tiny": 22,  # the stem, 18 blocks, three reductions
    "swin_t": 16,  # patches, twelve blocks, three reductions
}


@pytest.mark.parametrize("name", N_BLOCKS)
def test_each_weight_is_in_one_block(name: str) -> None:
    with torch.device("meta"):
        trunk, _ = backbone.build(name, (3, 224, 224), 5, "replace")
    parts = blocks(trunk)
    listed = [weight for part in parts for weight in part]
    assert len(parts) == N_BLOCKS[name]
    assert {id(weight) for weight in listed} == {id(weight) for weight in trunk.parameters()}
    assert len(listed) == len(set(listed))


def test_norm_belongs_to_the_block_before() -> None:
    first = nn.Conv2d(1, 2, 3)
    norm = nn.BatchNorm2d(2)
    last = nn.Linear(2, 2)
    trunk = nn.Sequential(first, norm, nn.Sequential(nn.ReLU(), last), nn.Dropout())
    assert blocks(trunk) == [[*first.parameters(), *norm.parameters()], [*last.parameters()]]


def test_own_weights_are_of_the_first_block() -> None:
    class Embedded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.position = nn.Parameter(torch.zeros(1, 2))
            self.layers = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))

    trunk = Embedded()
    first, second = blocks(trunk)
    assert first[0] is trunk.position
    assert second[0] is trunk.layers[1].weight


def test_backbone_without_weights_has_no_block() -> None:
    assert blocks(nn.Flatten()) == []


def test_blocks_of_cnn_are_its_layers() -> None:
    trunk, _ = cnn.build((1, 8, 8), 3, channels=[2, 2], kernel_size=3, hidden=4)
    assert [part[0].shape for part in blocks(trunk)] == [(2, 1, 3, 3), (2, 2, 3, 3), (4, 8)]
