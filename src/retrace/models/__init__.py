"""The networks, by the name in params.yaml.

To add one: a file here with a `build(shape, n_classes, *, settings...)` that returns the trunk (normalised inputs of
that shape to features) and the head (features to logits); a line in this table; its settings under `models:`. A layer
with a `initialize(inputs)` is shown some normalised inputs of the training part before the first step.
"""

from collections.abc import Callable

from retrace.layers import Built
from retrace.models import (
    airbench,
    cifar_simple,
    cifar_v3,
    cnn,
    lenet,
    mlp,
    softmax,
    softmax_scratch,
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
}
