"""Metrics: functions of logits or predictions, and labels."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np
import torch.nn.functional as F  # noqa: N812 - the field's own name for it
from torch import Tensor

from lab.shapes import Labels, Logits, Loss


@dataclass(frozen=True)
class ClassScore:
    """Precision, recall and F1 of one class against the others, 0..1."""

    name: str
    precision: float
    recall: float
    f1: float
    n_samples: int


def loss(logits: Logits, labels: Labels) -> float:
    """Return the mean cross-entropy, in nats, as a number: wait for the device."""
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


def by_class(
    predicted: np.ndarray, labels: np.ndarray, class_names: Sequence[str]
) -> list[ClassScore]:
    """Return a score for each class: 0 if it was never predicted, or has no sample.

    The same as scikit-learn's, whose import takes longer than the test.
    """
    n = len(class_names)
    n_predicted = np.bincount(predicted, minlength=n)
    n_samples = np.bincount(labels, minlength=n)
    n_correct = np.bincount(labels[predicted == labels], minlength=n)
    precision = n_correct / np.maximum(n_predicted, 1)
    recall = n_correct / np.maximum(n_samples, 1)
    f1 = 2 * n_correct / np.maximum(n_predicted + n_samples, 1)
    rows = zip(
        class_names,
        precision.tolist(),
        recall.tolist(),
        f1.tolist(),
        n_samples.tolist(),
        strict=True,
    )
    return [ClassScore(*row) for row in rows]


def averaged(classes: Sequence[ClassScore]) -> dict[str, float]:
    """Return the unweighted means over classes, by the names that metrics have everywhere."""
    return {
        f"test_{kind}": fmean(getattr(score, kind) for score in classes)
        for kind in ("precision", "recall", "f1")
    }
