"""torchvision's classifiers as backbone and head.

torchvision is imported only if it is chosen: its import takes longer than torch's.
"""

import re
from typing import Any, Literal

from torch import Tensor, nn

from lab import paths
from lab.models.layers import AveragePool, Built, Maps, Shape
from lab.shapes import Features
from retrace.errors import ParamsError

Head = Literal["replace", "append"]
PLAIN_MEAN = (1, (1, 1))  # sizes for which torch's average pool is deterministic

# These can have a second output in training. Their pretrained weights want inputs scaled once more.
INCEPTIONS = ("googlenet", "inception_v3")
AS_TRAINED = {"aux_logits": False, "init_weights": True, "transform_input": True}
OLD_DENSENET_NAMES = re.compile(r"(denselayer\d+\.(?:norm|conv))\.([12])\.")


class Backbone(nn.Module):
    """A torchvision classifier without its last linear layer; gray images are repeated as color."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name
        self.network = _network(name)
        self.last, self.n_features, self.n_outputs = _last_layer(self.network)
        self.network.set_submodule(self.last, nn.Identity())

    def forward(self, images: Maps) -> Features:
        return self.network(images.expand(-1, 3, -1, -1)).flatten(1)

    def renamed(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return torchvision's weights, by their names in a Classifier with an appended head."""
        last = {f"{self.last}.{kind}": f"head.0.{kind}" for kind in ("weight", "bias")}
        names = {name: OLD_DENSENET_NAMES.sub(r"\1\2.", name) for name in weights}
        return {
            last.get(names[name], f"trunk.network.{names[name]}"): tensor.flatten(1)
            if names[name] in last and tensor.ndim > 1
            else tensor
            for name, tensor in weights.items()
        }


def build(name: str, shape: Shape, n_classes: int, head: Head) -> Built:
    """Return a network with a replaced or an additional last layer. Raises ParamsError."""
    if len(shape) != 3 or shape[0] not in (1, 3):
        raise ParamsError(
            f"{paths.PARAMS}: model {name} takes images of one or three channels, not shape {shape}"
        )
    trunk = Backbone(name)
    if head == "replace":
        return trunk, nn.Linear(trunk.n_features, n_classes)
    outputs = nn.Linear(trunk.n_features, trunk.n_outputs)
    return trunk, nn.Sequential(outputs, nn.Linear(trunk.n_outputs, n_classes))


def _network(name: str) -> nn.Module:
    from torchvision import models

    known = models.list_models(models)
    if name not in known:
        raise ParamsError(
            f"{paths.PARAMS}: models.torchvision.name is {name!r}; "
            f"should be one of {', '.join(known)}"
        )
    network = models.get_model(name, **(AS_TRAINED if name in INCEPTIONS else {}))
    for path, layer in list(network.named_modules()):
        if isinstance(layer, nn.AdaptiveAvgPool2d) and layer.output_size not in PLAIN_MEAN:
            side: Any = layer.output_size
            network.set_submodule(path, AveragePool(side))
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
