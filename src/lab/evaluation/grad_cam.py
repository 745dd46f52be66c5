"""Grad-CAM: where in an image the evidence for its predicted class is.

Selvaraju et al. 2017, arXiv:1610.02391. The gradient of a class's logit with respect to the last
feature map, averaged over the map's pixels, weights the map's channels. The positive part of their
weighted sum is the heat map.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lab.data.batches import Split
from lab.evaluation import inference, metrics
from lab.evaluation.artifacts import HeatMaps, Predictions
from lab.models.classifier import Classifier

MAX_MISTAKES = 24
MAX_CLASSES = 24


def collect(model: Classifier, split: Split, predictions: Predictions) -> HeatMaps | None:
    """Return heat maps of the worst mistakes, then of one correctly classified sample a class.

    None if the network has no feature map before its head.
    """
    if split.inputs.ndim != 4:
        return None
    samples = chosen(predictions)
    size_seen = np.array(model.normalized(split.inputs[:1]).shape[2:])
    classes = predictions.predicted[samples]
    maps = []
    size = inference.batch_size(split.inputs)
    for first in range(0, len(samples), size):
        indices = torch.from_numpy(samples[first : first + size])
        images = split.inputs.index_select(0, indices.to(split.inputs.device))
        maps.append(heat_maps(model, images, torch.from_numpy(classes[first : first + size])))
    present = [map_.cpu().numpy() for map_ in maps if map_ is not None]
    return HeatMaps(samples, np.concatenate(present), size_seen) if present else None


def chosen(predictions: Predictions) -> np.ndarray:
    """Return the indices of the worst mistakes, and of the first correct sample of each class."""
    worst = metrics.worst_mistakes(metrics.softmax(predictions.logits), predictions.labels)
    correct = np.flatnonzero(predictions.predicted == predictions.labels)
    _, firsts = np.unique(predictions.labels[correct], return_index=True)
    return np.concatenate([worst[:MAX_MISTAKES], correct[firsts[:MAX_CLASSES]]])


def heat_maps(model: Classifier, images: Tensor, classes: Tensor) -> Tensor | None:
    """Return a heat map (n, height, width) for each image and class, with a maximum of 1.

    It has the size of the last feature map. It is 0 everywhere if nothing in the image speaks for
    the class. None if the network has no feature map before its head.
    """
    layer = _last_map(model.eval(), images[:1])
    if layer is None:
        return None
    leaves: list[Tensor] = []

    def cut(_layer: nn.Module, _inputs: Any, output: Tensor) -> Tensor:
        leaf = output.detach().requires_grad_()
        leaves.append(leaf)
        return leaf.clone()  # which an in-place layer may change

    # Without gradients of weights, no layer before the map keeps its activations.
    weights = {name: weight.detach() for name, weight in model.named_parameters()}
    with torch.enable_grad(), layer.register_forward_hook(cut):
        logits = torch.func.functional_call(model, weights, images)
        one_hot = torch.eye(logits.shape[1], device=logits.device)[classes.to(logits.device)]
        # The image itself comes first, before test-time augmentations of it.
        (gradient,) = torch.autograd.grad(logits, leaves[:1], one_hot)
    maps = _channels_first(leaves[0].detach(), images)
    gradient = _channels_first(gradient, images)
    if maps is None or gradient is None:
        return None
    heat = (maps * gradient.mean(dim=(2, 3), keepdim=True)).sum(dim=1).relu()
    largest = heat.amax(dim=(1, 2), keepdim=True)
    return heat / torch.where(largest > 0, largest, 1)


def _last_map(model: Classifier, image: Tensor) -> nn.Module | None:
    """Return the layer whose output is the last feature map.

    None if there is none, or if tokens (1, n, features) come after it, as in a transformer.
    """
    last: list[nn.Module | None] = [None]

    def look(layer: nn.Module, _inputs: Any, output: Any) -> None:
        if not isinstance(output, Tensor):
            return
        if _channels_first(output, image) is not None:
            last.append(layer)
        elif output.ndim == 3:
            last.append(None)

    hooks = [layer.register_forward_hook(look) for layer in model.trunk.modules()]
    with torch.no_grad():
        model(image)
    for hook in hooks:
        hook.remove()
    return last[-1]


def _channels_first(output: Tensor, images: Tensor) -> Tensor | None:
    """Return an output as feature maps (n, channels, height, width); None if it is something else.

    A feature map has the images' aspect ratio, at most their size, and more than one pixel a side.
    """
    if output.ndim != 4 or len(output) != len(images):
        return None
    tall, wide = images.shape[2:]  # perhaps more than the network sees of them
    for maps in (output, output.movedim(3, 1)):
        height, width = maps.shape[2:]
        is_smaller = 1 < height <= tall and 1 < width <= wide
        if is_smaller and abs(height - width * tall / wide) <= 1:
            return maps
    return None
