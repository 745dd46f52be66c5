"""What pictures show of the network itself, as arrays, so that drawing needs no torch."""

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from retrace import evaluation
from retrace.batches import Split
from retrace.classifier import Classifier
from retrace.reports import Grid, Views

MAX_LAYERS, MAX_CHANNELS, MAX_FILTERS = 6, 16, 64
GRID_SIDE = 200  # points
MARGIN = 0.15  # of the samples' extent, around them


def of(model: Classifier, part: Split) -> Views:
    """The first layer's weights, the first sample's feature maps, the logits around two-dimensional samples."""
    if part.inputs.ndim == 4:
        return Views(filters=_filters(model, part.inputs), maps=_maps(model, part.inputs[:1]), grid=None)
    return Views(filters=None, maps={}, grid=_grid(model, part) if part.inputs.shape[1] == 2 else None)


def _filters(model: Classifier, images: Tensor) -> np.ndarray | None:
    """The first layer's weights as pictures, (filters, channels, height, width), if it sees the image itself."""
    weights = next(weights.detach() for weights in model.parameters() if weights.ndim in (2, 4))
    if weights.ndim == 2:
        n_pixels = math.prod(images.shape[1:])
        if weights.shape[1] != n_pixels:
            return None
        weights = weights.reshape(-1, *images.shape[1:])
    return weights[:MAX_FILTERS].cpu().contiguous().numpy()


def _maps(model: Classifier, image: Tensor) -> dict[str, np.ndarray]:
    """What convolutions make of one image, by layer; of many, a few from the first to the last."""
    layers = [layer for layer in model.modules() if isinstance(layer, nn.Conv2d)]
    places = np.unique(np.linspace(0, len(layers) - 1, min(MAX_LAYERS, len(layers))).round().astype(int))
    maps: dict[str, np.ndarray] = {}

    def watch(name: str) -> Any:
        def hook(_layer: nn.Module, _inputs: Any, made: Tensor) -> None:
            if name not in maps:  # of the image itself, which comes before other views of it; a ReLU may write over it
                maps[name] = made[0, :MAX_CHANNELS].float().cpu().contiguous().numpy().copy()

        return hook

    hooks = [layers[place].register_forward_hook(watch(f"convolution {place + 1}")) for place in places]
    with torch.no_grad():
        model.eval()(image)
    for hook in hooks:
        hook.remove()
    return maps


def _grid(model: Classifier, part: Split) -> Grid:
    """The logits at evenly spaced points of the plane, a little beyond the samples."""
    lowest, highest = part.inputs.amin(dim=0), part.inputs.amax(dim=0)
    margin = (highest - lowest) * MARGIN
    axes = [
        torch.linspace(float(first), float(last), GRID_SIDE, device=part.inputs.device)
        for first, last in zip(lowest - margin, highest + margin, strict=True)
    ]
    points = torch.cartesian_prod(axes[1], axes[0]).flip(1)  # row by row from the bottom
    logits = evaluation.outputs(model, Split(points, torch.zeros(len(points), dtype=torch.int64))).logits
    x, y = (axis.cpu().numpy() for axis in axes)
    return Grid(x, y, logits.view(GRID_SIDE, GRID_SIDE, -1).cpu().numpy())
