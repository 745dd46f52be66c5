"""Losses, by the name in params.yaml.

To add one: a function here that takes the number of training samples of each class and, as
keyword-only arguments, its settings, and returns `loss(logits, labels)`, a mean over samples; a
line in the table; its settings under `losses:`. A mean that is weighted is a ClassWeighted.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor

from lab import paths
from lab.data import batches
from lab.shapes import BatchLabels, Labels, Logits, Loss, Targets
from retrace.errors import ParamsError

LossFunction = Callable[[Logits, Labels], Loss]
Counts = Int[Tensor, " class"]
ClassWeights = Float[Tensor, " class"]
Weights = (
    Literal["none", "balanced"]
    | Annotated[list[Annotated[float, Field(gt=0)]], Field(min_length=2)]
)


@dataclass(frozen=True)
class ClassWeighted:
    """A loss divided by the sum of its samples' class weights, not by their number."""

    loss: LossFunction
    weights: ClassWeights

    def __call__(self, logits: Logits, labels: Labels) -> Loss:
        return self.loss(logits, labels)


def of_rows(loss: LossFunction, logits: Logits, targets: Targets, rows: slice) -> Loss:
    """Return the share of these rows in a batch's loss: the sum over all its parts is the loss.

    `logits` are of these rows, `targets` of the whole batch. The loss of mixed inputs is that of
    both labels, weighted by their shares.
    """
    if targets.ndim == 1:
        return _of_rows(loss, logits, targets, rows)
    labels, others, shares = targets.unbind(1)
    first = _of_rows(loss, logits, labels.long(), rows)
    second = _of_rows(loss, logits, others.long(), rows)
    share = shares[0]  # all inputs of a batch have the same
    return share * first + (1 - share) * second


def _of_rows(loss: LossFunction, logits: Logits, labels: BatchLabels, rows: slice) -> Loss:
    mine = batches.rows(labels, rows)
    if mine is labels:
        return loss(logits, labels)
    if isinstance(loss, ClassWeighted):
        share = loss.weights[mine].sum() / loss.weights[labels].sum()
    else:
        share = torch.full((), len(mine) / len(labels), device=logits.device)
    return loss(logits, mine) * share


def main_labels(targets: Targets) -> BatchLabels:
    """Return the labels, of mixed inputs those with the larger share."""
    return targets if targets.ndim == 1 else targets[:, 0].long()


def cross_entropy(
    counts: Counts, *, label_smoothing: Annotated[float, Field(ge=0, lt=1)], class_weights: Weights
) -> LossFunction:
    """Return the mean negative log-likelihood, in nats.

    Label smoothing is that of Szegedy et al. 2016 (arXiv:1512.00567).
    With class weights, the mean is weighted by them (tutorial 003).
    """
    weights = _weights(counts, class_weights, "cross_entropy.class_weights")

    def loss(logits: Logits, labels: Labels) -> Loss:
        if logits.is_cuda and weights is not None and label_smoothing:
            return _smoothed(logits, labels, weights, label_smoothing)
        return F.cross_entropy(*_in_rows(logits, labels), weights, label_smoothing=label_smoothing)

    return loss if weights is None else ClassWeighted(loss, weights)


def _smoothed(logits: Logits, labels: Labels, weights: ClassWeights, smoothing: float) -> Loss:
    """Compute the same as torch's own function, which synchronizes a GPU in this case."""
    log_p = F.log_softmax(logits, dim=1)
    spread = -(log_p @ weights).sum() / weights[labels].sum()
    return (1 - smoothing) * F.nll_loss(log_p, labels, weights) + smoothing / len(weights) * spread


def _in_rows(logits: Logits, labels: Labels) -> tuple[Tensor, Tensor]:
    """View samples as the pixels of one image if logits are stored by class; faster on a CPU."""
    if logits.is_contiguous() or not logits.T.is_contiguous() or logits.is_cuda:
        return logits, labels
    return logits.T.view(1, -1, len(labels), 1), labels.view(1, -1, 1)


def cross_entropy_scratch(counts: Counts) -> LossFunction:  # noqa: ARG001 - a loss takes them
    """Return cross-entropy as tensor code: softmax, then the true class's logarithm (tutorial 004).

    It is infinite if the true class's probability underflows to 0 in float32, that is, if its logit
    is about 87 below the largest one. torch's cross_entropy is not.
    """

    def loss(logits: Logits, labels: Labels) -> Loss:
        # Subtracting the largest logit cancels out, and avoids overflow.
        powers = torch.exp(logits - logits.detach().amax(dim=1, keepdim=True))
        probabilities = powers / powers.sum(dim=1, keepdim=True)
        return -torch.log(probabilities.gather(1, labels[:, None])).mean()

    return loss


def focal(
    counts: Counts, *, gamma: Annotated[float, Field(ge=0, le=20)], alpha: Weights
) -> LossFunction:
    """Return focal loss (Lin et al. 2017, arXiv:1708.02002; tutorial 003).

    Cross-entropy, weighted by (1 - p)^gamma, where p is the probability of the sample's class, and
    by the class's alpha. As in the paper, the mean is over all samples.
    """
    weights = _weights(counts, alpha, "focal.alpha")

    def loss(logits: Logits, labels: Labels) -> Loss:
        log_p = F.log_softmax(logits, dim=1).gather(1, labels[:, None]).squeeze(1)
        wrong = (1 - log_p.exp()).clamp(
            min=torch.finfo(log_p.dtype).eps
        )  # at 0 the power has no gradient
        each = -(wrong**gamma) * log_p
        return (each if weights is None else weights[labels] * each).mean()

    return loss


def mse(counts: Counts) -> LossFunction:
    """Return the mean squared difference of logits and one-hot labels (tutorials 000 and 003)."""

    def loss(logits: Logits, labels: Labels) -> Loss:
        return F.mse_loss(logits, F.one_hot(labels, len(counts)).to(logits.dtype))

    return loss


def _weights(counts: Counts, weights: str | list[float], setting: str) -> ClassWeights | None:
    """Return a weight for each class; balanced ones are inversely proportional to its share."""
    if weights == "none":
        return None
    if weights == "balanced":
        return len(counts) ** -1 * counts.sum() / counts.clamp(min=1).float()
    if len(weights) != len(counts):
        raise ParamsError(
            f"{paths.PARAMS}: losses.{setting} has {len(weights)} numbers; "
            f"should be none, balanced, or a number for each of the {len(counts)} classes"
        )
    return torch.tensor(weights, dtype=torch.float32, device=counts.device)


LOSSES: dict[str, Callable[..., LossFunction]] = {
    "cross_entropy": cross_entropy,
    "cross_entropy_scratch": cross_entropy_scratch,
    "focal": focal,
    "mse": mse,
}
