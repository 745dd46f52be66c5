"""The networks, by the name in params.yaml.

To add a network: a file here with `build(shape, n_classes, *, settings...)`, which returns the
backbone (normalized inputs of that shape to features) and the head (features to logits); a line in
this table; its settings under `models:`. Before the first step, a layer's `initialize(inputs)` is
called with some normalized training inputs. What several networks use is in lab/models, because DVC
knows only the chosen network's file here.
"""

from collections.abc import Callable

from lab.models.layers import Built
from lab.models.networks import (
    airbench,
    cifar_simple,
    cifar_v3,
    cnn,
    lenet,
    mlp,
    softmax,
    softmax_scratch,
    timm,
    torchvision,
    vgg16,
)

MODELS: dict[str, Callable[..., Built]] = {
    "softmax": softmax.build,
    "softmax_scratch": softmax_scratch.build,
    "mlp": mlp.build,
    "cnn": cnn.build,
    "lenet": lenet.build,
    "cifar_simple": cifar_simple.build,
    "cifar_v3": cifar_v3.build,
    "airbench": airbench.build,
    "vgg16": vgg16.build,
    "torchvision": torchvision.build,
    "timm": timm.build,
}
