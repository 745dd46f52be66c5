"""The model as MLflow serves it: the classifier's probabilities, without its code."""

import os
from collections.abc import Callable
from pathlib import Path

import mlflow
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from lab import paths
from lab.models import classifier
from lab.models.classifier import ModelConfig
from lab.serving import package
from retrace.errors import DataError


def save_model(config: ModelConfig, seed: int = 0) -> None:
    """Write a network with weights drawn from this seed to models/."""
    torch.manual_seed(seed)
    classifier.save(classifier.build(config), config)


# Batch norm, and weights that are no layer's.
@pytest.mark.parametrize("model", ["cnn", "cifar_v3", "softmax_scratch"])
def test_package_predicts_as_classifier(
    folder: Path, config_of: Callable[[str, int], ModelConfig], model: str
) -> None:
    save_model(config_of(model, 8), seed=1)
    package.package(paths.WEIGHTS, paths.MODEL_CONFIG, folder / "packaged")
    inputs = np.random.default_rng(0).integers(0, 256, (3, 1, 8, 8), dtype=np.uint8)
    with torch.inference_mode():
        expected = torch.softmax(classifier.load()[0](torch.from_numpy(inputs)), dim=1).numpy()
    served = mlflow.pyfunc.load_model(str(folder / "packaged"))
    np.testing.assert_allclose(served.predict(inputs), expected, atol=1e-6)


@pytest.mark.parametrize("change", ["wider", "more", "half"])
def test_package_refuses_other_weights(
    folder: Path, config_of: Callable[[str, int], ModelConfig], change: str
) -> None:
    """As after a training by older code, uploaded late."""
    save_model(config_of("mlp", 8))
    weights = load_file(paths.WEIGHTS)
    if change == "more":
        weights["other"] = torch.zeros(3)
    else:
        weights["head.weight"] = torch.zeros(2, 40)
    save_file(weights, paths.WEIGHTS)
    if change == "half":
        os.truncate(paths.WEIGHTS, 500)
    with pytest.raises(DataError, match=str(paths.WEIGHTS)):
        package.package(paths.WEIGHTS, paths.MODEL_CONFIG, folder / "packaged")
    assert not (folder / "packaged").exists()
