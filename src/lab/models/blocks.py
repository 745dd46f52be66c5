"""The blocks of a backbone, from the input to the head: layer-wise learning rates count them."""

from torch import nn

Weights = list[nn.Parameter]


def blocks(backbone: nn.Module) -> list[Weights]:
    """Return the weights of each block, in the order in which the modules are defined.

    A block is a residual block or a single layer: containers are opened, and so are modules with
    more than half of all weights, such as the encoder of a transformer. A normalization belongs to
    the block before it. Weights of an opened module itself, such as position embeddings, belong to
    the first block inside it.
    """
    result: list[Weights] = []
    _append(result, backbone, _n_weights(backbone) / 2)
    return result


def _append(result: list[Weights], module: nn.Module, limit: float) -> None:
    """Append the blocks of a module."""
    children = [child for child in module.children() if _n_weights(child)]
    is_container = isinstance(module, nn.Sequential | nn.ModuleList)
    if children and (is_container or _n_weights(module) > limit):
        own = list(module.parameters(recurse=False))
        first = len(result)
        for child in children:
            _append(result, child, limit)
        result[min(first, len(result) - 1)][:0] = own
        return
    weights = list(module.parameters())
    is_norm = all(weight.ndim < 2 for weight in weights)
    if is_norm and result:
        result[-1] += weights
    elif weights:
        result.append(weights)


def _n_weights(module: nn.Module) -> int:
    return sum(weight.numel() for weight in module.parameters())
