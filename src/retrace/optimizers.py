"""How a gradient changes the weights, by the name in params.yaml. The learning rate is set at every step.

To add one: a function here that takes the weights and, as keyword-only arguments, its settings; a line in the table;
its settings under `optimizers:`. `fused` updates all weights in one kernel.
"""

from collections.abc import Callable, Iterable
from typing import Annotated

from pydantic import Field
from torch import nn, optim

Decay = Annotated[float, Field(ge=0, lt=1)]
Betas = Annotated[list[Decay], Field(min_length=2, max_length=2)]
Weights = Iterable[nn.Parameter]

LR = 1.0  # never used: the schedule sets each step's


def sgd(weights: Weights, *, momentum: Decay, nesterov: bool, weight_decay: Decay) -> optim.Optimizer:
    return optim.SGD(
        weights, LR, momentum=momentum, nesterov=nesterov and momentum > 0, weight_decay=weight_decay, fused=True
    )


def adam(weights: Weights, *, betas: Betas) -> optim.Optimizer:
    """Kingma and Ba 2015 (arXiv:1412.6980)."""
    return optim.Adam(weights, LR, betas=(betas[0], betas[1]), fused=True)


def adamw(weights: Weights, *, betas: Betas, weight_decay: Decay) -> optim.Optimizer:
    """Adam with the decay apart from the gradient: Loshchilov and Hutter 2019 (arXiv:1711.05101)."""
    return optim.AdamW(weights, LR, betas=(betas[0], betas[1]), weight_decay=weight_decay, fused=True)


OPTIMIZERS: dict[str, Callable[..., optim.Optimizer]] = {
    "sgd": sgd,
    "adam": adam,
    "adamw": adamw,
}
