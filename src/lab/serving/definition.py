"""A network's definition as a Python file that needs torch, and perhaps torchvision or timm."""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from lab.models import layers
from lab.models.backbone import AS_TRAINED, INCEPTIONS, Backbone
from lab.models.classifier import Classifier, ModelConfig
from lab.models.networks.softmax_scratch import Affine
from retrace.errors import DataError

TEMPLATE = '''\
"""The network of model.safetensors: raw inputs (n, {shape}) in, logits (n, classes) out."""

import torch
{imports}from torch import nn

MEAN = torch.tensor({mean}){view}
STD = torch.tensor({std}){view}


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.backbone = {backbone}
{remove}        self.head = {head}

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        scaled = (inputs.to(torch.float32) - MEAN) / STD
        return self.head(self.backbone(scaled{repeat}).flatten(1))
'''


def _sequential(layer: Any) -> str:
    lines = [f"            {expression(each)},\n" for each in layer]
    return f"nn.Sequential(\n{''.join(lines)}        )"


def _convolution(layer: Any) -> str:
    sizes = f"{layer.in_channels}, {layer.out_channels}, {layer.kernel_size}"
    return f"nn.Conv2d({sizes}, padding={layer.padding!r})"


def _linear(layer: Any) -> str:
    n_outputs, n_inputs = layer.weight.shape
    return f"nn.Linear({n_inputs}, {n_outputs})"


# The constructor of each type of layer, with its arguments.
EXPRESSIONS: dict[type[nn.Module], Callable[[Any], str]] = {
    nn.Sequential: _sequential,
    nn.Conv2d: _convolution,
    nn.Linear: _linear,
    layers.Linear: _linear,
    Affine: _linear,
    nn.BatchNorm2d: lambda layer: f"nn.BatchNorm2d({layer.num_features}, eps={layer.eps})",
    layers.MaxPool: lambda _: "nn.MaxPool2d(2)",
    nn.ZeroPad2d: lambda layer: f"nn.ZeroPad2d({layer.padding})",
    nn.Dropout: lambda layer: f"nn.Dropout({layer.p})",
    nn.ReLU: lambda _: "nn.ReLU()",
    nn.Identity: lambda _: "nn.Identity()",
    nn.Flatten: lambda _: "nn.Flatten()",
}


def expression(layer: nn.Module) -> str:
    """Return the Python expression that builds a layer. Raises LookupError if it is unknown."""
    return EXPRESSIONS[type(layer)](layer)


def text(model: Classifier, config: ModelConfig) -> str:
    """Return the file's text. Raises DataError if the network has layers of the lab's own."""
    remove = ""
    try:
        if isinstance(model.trunk, Backbone):
            backbone, remove = _of_library(model.trunk)
        else:
            backbone = expression(model.trunk)
        head = expression(model.head)
    except LookupError:
        raise DataError(
            f"--format is 'safetensors', but the layers of {config.model} are code of this "
            "repository; use onnx or pt2"
        ) from None
    name = library(model)
    return TEMPLATE.format(
        shape=", ".join(map(str, config.shape)),
        imports=f"import {name}\n" if name else "",
        mean=list(config.mean),
        std=list(config.std),
        view=f".view({', '.join(['-1', *('1' for _ in config.shape[1:])])})",
        backbone=backbone,
        remove=f"        {remove}\n" if remove else "",
        head=head,
        repeat=".expand(-1, 3, -1, -1)" if name and config.shape[0] == 1 else "",
    )


def renamed(model: Classifier) -> dict[str, Tensor]:
    """Return the weights by their names in the definition."""
    own = "trunk.network." if isinstance(model.trunk, Backbone) else "trunk."
    return {
        f"backbone.{name.removeprefix(own)}" if name.startswith(own) else name: tensor.contiguous()
        for name, tensor in model.state_dict().items()
    }


def library(model: Classifier) -> str:
    """Return the library that has the network, besides torch; empty if there is none."""
    return model.trunk.library if isinstance(model.trunk, Backbone) else ""


def _of_library(trunk: Backbone) -> tuple[str, str]:
    """Return the expression of a library's classifier, and what removes its last layer."""
    if trunk.library == "timm":
        return f"timm.create_model({trunk.name!r}, num_classes=0)", ""
    settings = AS_TRAINED if trunk.name in INCEPTIONS else {}
    words = "".join(f", {name}={value}" for name, value in settings.items())
    backbone = f"torchvision.models.get_model({trunk.name!r}{words})"
    return backbone, f"self.backbone.set_submodule({trunk.last!r}, nn.Identity())"
