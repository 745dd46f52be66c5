"""Arrays from inside a network for the figures, so that drawing needs no torch."""

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lab.data.batches import Split
from lab.evaluation import inference
from lab.evaluation.artifacts import Grid, NetworkViews
from lab.models.classifier import Classifier

MAX_LAYERS = 6
MAX_CHANNELS = 16
MAX_FILTERS = 64
GRID_SIDE = 200  # points
MARGIN = 0.15  # around the samples, as a share of their extent


def collect(model: Classifier, split: Split) -> NetworkViews:
    """Collect filters and the first sample's feature maps, or the logits around points in 2-D."""
    if split.inputs.ndim == 4:
        maps = _feature_maps(model, split.inputs[:1])
        filters = _filters(model, model.shape)
        return NetworkViews(filters=filters, maps=maps, grid=None)
    grid = _grid(model, split) if split.inputs.shape[1] == 2 else None
    return NetworkViews(filters=None, maps={}, grid=grid)


def _filters(model: Classifier, shape: tuple[int, ...]) -> np.ndarray | None:
    """Return the first layer's weights (filters, channels, height, width), if it reads images."""
    weights = next(weights.detach() for weights in model.parameters() if weights.ndim in (2, 4))
    if weights.ndim == 2:
        if weights.shape[1] != math.prod(shape):
            return None
        weights = weights.reshape(-1, *shape)
    return weights[:MAX_FILTERS].cpu().contiguous().numpy()


def _feature_maps(model: Classifier, image: Tensor) -> dict[str, np.ndarray]:
    """Return the output of each convolution for one image (1, channels, height, width).

    For a deep network, return only a few evenly spaced layers.
    """
    layers = [layer for layer in model.modules() if isinstance(layer, nn.Conv2d)]
    chosen = np.linspace(0, len(layers) - 1, min(MAX_LAYERS, len(layers))).round().astype(int)
    maps: dict[str, np.ndarray] = {}

    def record(name: str) -> Any:
        def hook(_layer: nn.Module, _inputs: Any, output: Tensor) -> None:
            # The image itself comes first, before test-time augmentations of it. The copy is
            # needed if an in-place ReLU overwrites the output.
            if name not in maps:
                first = output[0, :MAX_CHANNELS].float().cpu().contiguous()
                maps[name] = first.numpy().copy()

        return hook

    hooks = [
        layers[index].register_forward_hook(record(f"convolution {index + 1}"))
        for index in np.unique(chosen)
    ]
    with torch.no_grad():
        model.eval()(image)
    for hook in hooks:
        hook.remove()
    return maps


def _grid(model: Classifier, split: Split) -> Grid:
    """Return the logits at evenly spaced points of the plane, with a margin around the samples."""
    inputs = split.inputs[:]
    lowest = inputs.amin(dim=0)
    highest = inputs.amax(dim=0)
    margin = (highest - lowest) * MARGIN
    axes = [
        torch.linspace(float(first), float(last), GRID_SIDE, device=split.inputs.device)
        for first, last in zip(lowest - margin, highest + margin, strict=True)
    ]
    points = torch.cartesian_prod(axes[1], axes[0]).flip(1)  # row by row from the bottom
    labels = torch.zeros(len(points), dtype=torch.int64)
    logits = inference.outputs(model, Split(points, labels)).logits
    x, y = (axis.cpu().numpy() for axis in axes)
    return Grid(x, y, logits.view(GRID_SIDE, GRID_SIDE, -1).cpu().numpy())
