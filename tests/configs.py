"""Model configs that tests share."""

from typing import Any

from lab.models.classifier import ModelConfig
from retrace.pipeline import params_yaml


def cats_and_dogs(
    values: params_yaml.Values, model: str = "torchvision", **settings: Any
) -> ModelConfig:
    """Return the config of a model for colour images of 40 x 40 pixels in two classes."""
    return ModelConfig(
        model=model,
        settings=values["models"][model] | settings,
        shape=(3, 40, 40),
        class_names=("cat", "dog"),
        mean=(0.0,) * 3,
        std=(255.0,) * 3,
        pretrained=None,
        epoch=0,
    )
