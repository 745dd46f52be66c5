"""What a classifier sees of its inputs."""

import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import typed

from lab import params
from lab.data import batches, storage
from lab.data.samples import Samples
from lab.evaluation import inference, introspection
from lab.models import initialization
from retrace.errors import ParamsError


@pytest.mark.parametrize("model", ["cnn", "softmax", "airbench"])
def test_center_is_what_the_network_sees(stripes: Samples, model: str) -> None:
    enlarged = stripes.inputs.repeat(2, axis=2).repeat(2, axis=3)
    stripes = replace(stripes, inputs=enlarged)
    inner = replace(stripes, inputs=enlarged[:, :, 2:-2, 2:-2].copy())
    scale = storage.scale(stripes)
    seeing, own = (
        initialization.build(typed(params.Train, model=model, input_size=side), samples, scale)[0]
        for side, samples in ((12, stripes), (0, inner))
    )
    whole, center = (
        batches.on_device(samples, torch.device("cpu")) for samples in (stripes, inner)
    )
    assert torch.equal(
        inference.outputs(seeing, whole).logits, inference.outputs(own, center).logits
    )
    views = [introspection.collect(seeing, whole), introspection.collect(own, center)]
    assert (views[0].filters == views[1].filters).all()
    assert all(np.array_equal(views[0].maps[name], views[1].maps[name]) for name in views[1].maps)


@pytest.mark.parametrize(("side", "resize"), [(0, None), (8, 8), (6, 8)])
def test_config_has_what_predict_needs(stripes: Samples, side: int, resize: int | None) -> None:
    p = typed(params.Train, input_size=side)
    _, config = initialization.build(p, stripes, storage.scale(stripes))
    assert config.shape == (1, side or 8, side or 8)
    assert config.resize == resize


@pytest.mark.parametrize("side", [7, 10])
def test_image_without_such_center_is_refused(stripes: Samples, side: int) -> None:
    message = f"params.yaml: input_size is {side}; should be even and at most 8, "
    with pytest.raises(ParamsError, match=f"^{re.escape(message)}.*$"):
        initialization.build(typed(params.Train, input_size=side), stripes, storage.scale(stripes))
