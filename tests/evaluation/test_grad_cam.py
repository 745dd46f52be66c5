"""Grad-CAM, against Selvaraju et al. 2017 and by hand."""

import numpy as np
import pytest
import torch
from torch import nn

from lab import params
from lab.data import batches, storage
from lab.data.samples import Samples
from lab.data.storage import Scale
from lab.evaluation import grad_cam, inference
from lab.evaluation.artifacts import Predictions
from lab.models import classifier
from lab.models.classifier import Classifier
from retrace.pipeline import params_yaml

UNSCALED = Scale((0.0,), (1.0,))
SHAPE = (1, 4, 4)


class Mean(nn.Module):
    """Global average pooling."""

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        return maps.mean(dim=(2, 3))


class Tokens(nn.Module):
    """A row of tokens, as in a transformer, and their mean."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Flatten(2)

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        return self.tokens(maps).mean(dim=2)


def two_channels(*after: nn.Module) -> Classifier:
    """Return a network whose maps are the image and twice the image, and whose head is known."""
    convolution = nn.Conv2d(1, 2, 1, bias=False)
    head = nn.Linear(2, 2, bias=False)
    with torch.no_grad():
        convolution.weight.copy_(torch.tensor([1.0, 2.0]).view(2, 1, 1, 1))
        head.weight.copy_(torch.tensor([[1.0, 0.5], [-1.0, 0.25]]))
    return Classifier(nn.Sequential(convolution, *after), head, UNSCALED, SHAPE)


IMAGE = torch.arange(16, dtype=torch.uint8).view(1, 1, 4, 4)


def test_heat_map_by_hand() -> None:
    # The gradients are 1/16 and 0.5/16 of class 0: heat is the image's (1 + 2 * 0.5) / 16.
    heat = grad_cam.heat_maps(two_channels(Mean()), IMAGE, torch.tensor([0]))
    assert heat is not None
    torch.testing.assert_close(heat[0], IMAGE[0, 0] / 15)
    # Of class 1 they are -1/16 and 0.25/16, whose sum is negative everywhere.
    against = grad_cam.heat_maps(two_channels(Mean()), IMAGE, torch.tensor([1]))
    assert against is not None
    assert against.count_nonzero() == 0


def test_heat_map_ignores_a_later_inplace_layer() -> None:
    model = two_channels(nn.BatchNorm2d(2), Mean())
    model.trunk.insert(2, nn.ReLU(inplace=True))  # pyright: ignore[reportCallIssue]
    heat = grad_cam.heat_maps(model, IMAGE, torch.tensor([0]))
    assert heat is not None
    torch.testing.assert_close(heat[0], IMAGE[0, 0] / 15)


@pytest.mark.parametrize("after", [(nn.AdaptiveAvgPool2d(1), nn.Flatten()), (Tokens(),)])
def test_tokens_have_no_heat_map(after: tuple[nn.Module, ...]) -> None:
    heat = grad_cam.heat_maps(two_channels(*after), IMAGE, torch.tensor([0]))
    assert (heat is None) == isinstance(after[0], Tokens)


def test_channels_may_come_last() -> None:
    maps = torch.zeros(1, 7, 7, 96)
    channels_first = grad_cam._channels_first(maps, torch.zeros(1, 3, 224, 224))
    assert channels_first is not None
    assert channels_first.shape == (1, 96, 7, 7)


def model_for(values: params_yaml.Values, name: str, samples: Samples) -> Classifier:
    torch.manual_seed(0)
    choice = params.Choice(name=name, settings=values["models"][name])
    return classifier.build(classifier.config_of(choice, samples, storage.scale(samples)))


@pytest.mark.parametrize(
    ("name", "side"),
    [("cnn", 2), ("cifar_v3", 0), ("cifar_simple", 0), ("lenet", 5), ("softmax", 0), ("mlp", 0)],
)
def test_last_map_of_each_network(
    values: params_yaml.Values, stripes: Samples, name: str, side: int
) -> None:
    split = batches.on_device(stripes, torch.device("cpu"))
    model = model_for(values, name, stripes)
    heat = grad_cam.heat_maps(model, split.inputs[:3], torch.tensor([0, 1, 2]))
    if side:
        assert heat is not None
        assert heat.shape == (3, side, side)
        assert float(heat.max()) <= 1
    # Maps of 8x8 images that are halved three times have one pixel; the one before counts.
    elif name.startswith("cifar"):
        assert heat is not None
        assert heat.shape == (3, 2, 2)
    else:
        assert heat is None


def test_views_do_not_change_heat_maps(values: params_yaml.Values, stripes: Samples) -> None:
    split = batches.on_device(stripes, torch.device("cpu"))
    heat = []
    for views in (1, 6):
        values["models"]["airbench"] |= {"widths": [4], "views": views}
        model = model_for(values, "airbench", stripes)
        heat.append(grad_cam.heat_maps(model, split.inputs[:3], torch.tensor([0, 1, 2])))
    np.testing.assert_allclose(heat[0], heat[1], atol=1e-6)


def test_collect_has_mistakes_then_classes(values: params_yaml.Values, stripes: Samples) -> None:
    split = batches.on_device(stripes, torch.device("cpu"))
    model = model_for(values, "cnn", stripes)
    weights = {name: weight.clone() for name, weight in model.state_dict().items()}
    logits = 9 * np.eye(3, dtype=np.float32)[stripes.labels]
    logits[4] = [0, 1, 30]
    logits[7] = [0, 1, 40]
    logits[0] = [0, 1, 2]
    heat = grad_cam.collect(model, split, Predictions(logits, logits, stripes.labels))
    assert heat is not None
    assert heat.samples.tolist() == [7, 4, 0, 3, 1, 2]
    assert heat.maps.shape == (6, 2, 2)
    assert heat.size.tolist() == [8, 8]
    alone = grad_cam.heat_maps(model, split.inputs[4:5], torch.tensor([2]))
    assert alone is not None
    np.testing.assert_allclose(heat.maps[1:2], alone.numpy(), atol=1e-6)
    assert all(weight.requires_grad for weight in model.parameters())
    assert all(weights[name].equal(weight) for name, weight in model.state_dict().items())
    assert inference.batch_size(split.inputs) == 100
