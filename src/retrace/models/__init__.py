"""The networks, by the name in params.yaml.

To add one: a file here with a `build(image, n_classes, *, settings...)` that returns the trunk (raw images,
normalised, to features) and the head (features to logits); a line in this table; its settings under `models:`.
"""

from collections.abc import Callable

from torch import nn

from retrace.models import cnn, softmax

MODELS: dict[str, Callable[..., tuple[nn.Module, nn.Module]]] = {
    "softmax": softmax.build,
    "cnn": cnn.build,
}
