"""Loss and accuracy of logits, in validation and in the test."""

import torch.nn.functional as F  # noqa: N812 - its usual name
from torch import Tensor

from lab.shapes import Labels, Logits, Loss


def loss(logits: Logits, labels: Labels) -> float:
    """Return the mean cross-entropy in nats as a float; this synchronizes with the device."""
    return mean_loss(logits, labels).item()


def mean_loss(logits: Logits, labels: Labels) -> Loss:
    """Return the mean cross-entropy, in nats, without smoothing."""
    return F.cross_entropy(logits, labels)


def accuracy(logits: Logits, labels: Labels) -> float:
    """Return the share of samples whose largest logit is the label's, 0..1."""
    return n_correct(logits, labels).item() / len(labels)


def n_correct(logits: Logits, labels: Labels) -> Tensor:
    """Count the samples whose largest logit is the label's."""
    # `argmax` of strided logits takes ten times as long as `max`.
    return (logits.max(dim=1).indices == labels).count_nonzero()
