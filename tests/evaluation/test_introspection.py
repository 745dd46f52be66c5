"""What pictures show of a network, against the network."""

import numpy as np
import pytest
import torch
from torch import nn

from lab import params
from lab.data import batches, storage
from lab.data.samples import Samples
from lab.evaluation import introspection
from lab.models import classifier
from retrace.pipeline import params_yaml

CPU = torch.device("cpu")


def model_for(values: params_yaml.Values, name: str, samples: Samples) -> classifier.Classifier:
    torch.manual_seed(0)
    choice = params.Choice(name=name, settings=values["models"][name])
    return classifier.build(classifier.config_of(choice, samples, storage.scale(samples)))


def test_feature_maps_are_convolutions_outputs(
    values: params_yaml.Values, stripes: Samples
) -> None:
    model = model_for(values, "cnn", stripes)
    maps = introspection.collect(model, batches.on_device(stripes, CPU)).maps
    assert list(maps) == ["convolution 1", "convolution 2"]
    convolution = next(layer for layer in model.modules() if isinstance(layer, nn.Conv2d))
    first = convolution((torch.from_numpy(stripes.inputs[:1]).float() - model.mean) / model.std)
    np.testing.assert_allclose(maps["convolution 1"], first[0].detach(), rtol=1e-5, atol=1e-6)
    assert maps["convolution 2"].shape == (16, 4, 4)


def test_feature_maps_before_an_inplace_relu(values: params_yaml.Values, stripes: Samples) -> None:
    maps = introspection.collect(
        model_for(values, "cifar_v3", stripes), batches.on_device(stripes, CPU)
    ).maps
    assert len(maps) == 6
    assert all(map_.min() < 0 for map_ in maps.values())


def test_feature_maps_of_the_image_not_its_views(
    values: params_yaml.Values, stripes: Samples
) -> None:
    values["models"]["airbench"] |= {"widths": [4, 4], "views": 6}
    model = model_for(values, "airbench", stripes)
    maps = introspection.collect(model, batches.on_device(stripes, CPU)).maps
    whitening = next(layer for layer in model.modules() if isinstance(layer, nn.Conv2d))
    first = whitening(model.normalized(torch.from_numpy(stripes.inputs[:1])))
    np.testing.assert_allclose(maps["convolution 1"], first[0].detach(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("name", "shape"), [("cnn", (16, 1, 5, 5)), ("softmax", (3, 1, 8, 8))])
def test_filters_are_the_first_layers_weights(
    values: params_yaml.Values, stripes: Samples, name: str, shape: tuple[int, ...]
) -> None:
    model = model_for(values, name, stripes)
    filters = introspection.collect(model, batches.on_device(stripes, CPU)).filters
    assert filters is not None
    assert filters.shape == shape
    np.testing.assert_array_equal(
        filters.ravel(), next(model.parameters()).detach().numpy().ravel()
    )


def test_filters_of_softmax_from_scratch(values: params_yaml.Values, stripes: Samples) -> None:
    model = model_for(values, "softmax_scratch", stripes)
    filters = introspection.collect(model, batches.on_device(stripes, CPU)).filters
    assert filters is not None
    assert isinstance(model.head.weight, nn.Parameter)
    np.testing.assert_array_equal(filters[1].ravel(), model.head.weight[1].detach())


def test_grid_has_the_logits_at_its_points(values: params_yaml.Values) -> None:
    points = np.random.default_rng(0).normal(size=(50, 2)).astype(np.float32)
    samples = Samples(points, np.arange(50) % 2, ("in", "out"))
    model = model_for(values, "mlp", samples)
    seen = introspection.collect(model, batches.on_device(samples, CPU))
    grid = seen.grid
    assert grid is not None
    assert (seen.filters, seen.maps) == (None, {})
    for column, row in ((0, 0), (3, 170), (199, 20)):
        there = torch.tensor([[grid.x[column], grid.y[row]]])
        np.testing.assert_allclose(
            grid.logits[row, column], model(there)[0].detach(), rtol=1e-4, atol=1e-5
        )
    assert grid.x[0] < points[:, 0].min() < points[:, 0].max() < grid.x[-1]
