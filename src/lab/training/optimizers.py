"""Optimizers, by the name in params.yaml. The trainer sets the learning rate of every step.

To add one: a function here that takes the weights in groups and, as keyword-only arguments, its
settings; a line in the table; its settings under `optimizers:`. `fused` updates all weights in one
kernel.
"""

from collections.abc import Callable, Iterable
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import nn, optim

from lab.models import blocks
from lab.models.classifier import Classifier
from lab.params import Train
from lab.training import fast_startup

Decay = Annotated[float, Field(ge=0, lt=1)]
Betas = Annotated[list[Decay], Field(min_length=2, max_length=2)]
Weights = Iterable[nn.Parameter] | Iterable[dict[str, Any]]  # or groups of them, see `groups`

LR = 1.0  # a placeholder: the schedule sets each step's

LR_SCALE = "lr_scale"  # of a group: the factor on the schedule's learning rate


SGD = fast_startup.without_dynamo(optim.SGD)
Adam = fast_startup.without_dynamo(optim.Adam)
AdamW = fast_startup.without_dynamo(optim.AdamW)
RMSprop = fast_startup.without_dynamo(optim.RMSprop)


def groups(model: Classifier, p: Train) -> list[dict[str, Any]]:
    """Return all weights that are ever trained, in groups with a factor on their learning rate.

    The head's factor is 1. Each block of the backbone has that of the block after it, toward the
    head, times `layer_decay` (Bao et al. 2022, arXiv:2106.08254). With 1.0 there is one group.
    """
    trained = model.trainable()
    if p.unfreeze_epoch:
        trained = model.frozen() + trained  # as yet without a gradient, so that a step skips them
    if p.layer_decay == 1:
        return [{"params": trained, LR_SCALE: 1.0}]
    chosen = set(trained)
    parts = [*blocks.blocks(model.trunk), list(model.head.parameters())]
    result = []
    for distance, part in enumerate(reversed(parts)):  # distance from the head, in blocks
        weights = [weight for weight in part if weight in chosen]
        if weights:
            result.append({"params": weights, LR_SCALE: p.layer_decay**distance})
    return result


def weights_of(optimizer: optim.Optimizer) -> list[nn.Parameter]:
    """Return the weights of all groups, in the order of the optimizer's state."""
    return [weight for group in optimizer.param_groups for weight in group["params"]]


def sgd(
    weights: Weights, *, momentum: Decay, nesterov: bool, weight_decay: Decay
) -> optim.Optimizer:
    return SGD(
        weights,
        LR,
        momentum=momentum,
        nesterov=nesterov and momentum > 0,
        weight_decay=weight_decay,
        fused=True,
    )


def sgd_scratch(weights: Weights) -> optim.Optimizer:
    """Return stochastic gradient descent as tensor code (tutorial 004)."""
    return Descent(weights)


class Descent(optim.Optimizer):
    """Plain gradient descent: subtract the gradient times the learning rate."""

    def __init__(self, weights: Weights) -> None:
        super().__init__(weights, {"lr": LR})

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:  # noqa: ARG002 - torch's own signature
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is not None:
                    weight.addcmul_(weight.grad, torch.as_tensor(group["lr"]), value=-1)


def adam(weights: Weights, *, betas: Betas) -> optim.Optimizer:
    """Return Adam (Kingma and Ba 2015, arXiv:1412.6980)."""
    return Adam(weights, LR, betas=(betas[0], betas[1]), fused=True)


def adamw(weights: Weights, *, betas: Betas, weight_decay: Decay) -> optim.Optimizer:
    """Return Adam with decoupled weight decay (Loshchilov and Hutter 2019, arXiv:1711.05101)."""
    return AdamW(weights, LR, betas=(betas[0], betas[1]), weight_decay=weight_decay, fused=True)


def rmsprop(weights: Weights, *, alpha: Decay, momentum: Decay) -> optim.Optimizer:
    """Return RMSprop (Tieleman and Hinton 2012, lecture 6e)."""
    return RMSprop(weights, LR, alpha=alpha, momentum=momentum)


OPTIMIZERS: dict[str, Callable[..., optim.Optimizer]] = {
    "sgd": sgd,
    "sgd_scratch": sgd_scratch,
    "adam": adam,
    "adamw": adamw,
    "rmsprop": rmsprop,
}
