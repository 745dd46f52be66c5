"""A library's classifiers as backbone and head, and those of torchvision.

torchvision is imported only if it is chosen: its import takes longer than torch's.
"""

import re
from abc import ABC, abstractmethod
from typing import Any, Literal

from torch import Tensor, nn

from lab import paths
from lab.data.storage import Scale
from lab.models.layers import AveragePool, Built, Maps, Shape
from lab.shapes import Features
from retrace.errors import ParamsError

Head = Literal["replace", "append"]
PLAIN_MEAN = (1, (1, 1))  # sizes for which torch's average pool is deterministic

# Of the images that torchvision's and most of timm's networks were trained with, in units of a raw
# pixel, 0..255.
IMAGENET = Scale(mean=(123.675, 116.28, 103.53), std=(58.395, 57.12, 57.375))

# These can have a second output in training. Their pretrained weights want inputs scaled once more.
INCEPTIONS = ("googlenet", "inception_v3")
AS_TRAINED = {"aux_logits": False, "init_weights": True, "transform_input": True}
OLD_DENSENET_NAMES = re.compile(r"(denselayer\d+\.(?:norm|conv))\.([12])\.")


class Backbone(nn.Module, ABC):
    """A library's classifier without its last linear layer; gray images are repeated as color."""

    library: str
    name: str  # of the classifier in the library
    scale: Scale  # of the inputs of its pretrained weights
    last: str  # the last layer's name in its pretrained weights
    network: nn.Module
    n_features: int
    n_outputs: int  # of the last layer

    def forward(self, images: Maps) -> Features:
        return self.network(images.expand(-1, 3, -1, -1)).flatten(1)

    @abstractmethod
    def address(self) -> str:
        """Return where the library's weights are; the file's name ends in digits of its SHA-256.

        Raises ParamsError if there are none.
        """

    def renamed(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the library's weights, by their names in a Classifier with an appended head."""
        last = {f"{self.last}.{kind}": f"head.0.{kind}" for kind in ("weight", "bias")}
        return {
            last.get(name, f"trunk.network.{name}"): tensor.flatten(1)
            if name in last and tensor.ndim > 1
            else tensor
            for name, tensor in weights.items()
        }

    def with_head(self, n_classes: int, head: Head) -> Built:
        """Return the backbone with a replaced or an additional last layer."""
        if head == "replace":
            return self, nn.Linear(self.n_features, n_classes)
        outputs = nn.Linear(self.n_features, self.n_outputs)
        return self, nn.Sequential(outputs, nn.Linear(self.n_outputs, n_classes))


class Torchvision(Backbone):
    """A torchvision classifier without its last linear layer."""

    library = "torchvision"
    scale = IMAGENET

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name
        self.network = _network(name)
        self.last, self.n_features, self.n_outputs = _last_layer(self.network)
        self.network.set_submodule(self.last, nn.Identity())

    def address(self) -> str:
        from torchvision import models

        return models.get_model_weights(self.name)["DEFAULT"].url

    def renamed(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        return super().renamed(
            {OLD_DENSENET_NAMES.sub(r"\1\2.", name): tensor for name, tensor in weights.items()}
        )


def build(name: str, shape: Shape, n_classes: int, head: Head) -> Built:
    """Return a torchvision network with a new last layer. Raises ParamsError."""
    check_channels(name, shape)
    return Torchvision(name).with_head(n_classes, head)


def check_channels(name: str, shape: Shape) -> None:
    """Raise ParamsError if inputs of this shape are not images in gray or color."""
    if len(shape) != 3 or shape[0] not in (1, 3):
        raise ParamsError(
            f"{paths.PARAMS}: model {name} takes images of one or three channels, not shape {shape}"
        )


def make_deterministic(network: nn.Module) -> None:
    """Replace average pools whose gradient is not deterministic on a GPU."""
    for path, layer in list(network.named_modules()):
        if isinstance(layer, nn.AdaptiveAvgPool2d) and layer.output_size not in PLAIN_MEAN:
            side: Any = layer.output_size
            network.set_submodule(
                path, AveragePool((side, side) if isinstance(side, int) else side)
            )


def _network(name: str) -> nn.Module:
    from torchvision import models

    known = models.list_models(models)
    if name not in known:
        raise ParamsError(
            f"{paths.PARAMS}: models.torchvision.name is {name!r}; "
            f"should be one of {', '.join(known)}"
        )
    network = models.get_model(name, **(AS_TRAINED if name in INCEPTIONS else {}))
    make_deterministic(network)
    return network


def _last_layer(network: nn.Module) -> tuple[str, int, int]:
    """Return the last layer's name and its numbers of inputs and outputs.

    SqueezeNet ends in a 1x1 convolution, then ReLU: here ReLU comes first, and a linear layer
    replaces the convolution.
    """
    layers = [
        (name, layer)
        for name, layer in network.named_modules()
        if isinstance(layer, nn.Linear | nn.Conv2d)
    ]
    name, layer = layers[-1]
    if isinstance(layer, nn.Linear):
        return name, layer.in_features, layer.out_features
    return name, layer.in_channels, layer.out_channels
