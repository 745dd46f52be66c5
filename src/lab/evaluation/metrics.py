"""Test metrics of predictions. stages/evaluate.py logs them; training does not depend on them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np

CONFIDENCE = 1.96  # standard deviations, for 95 %


@dataclass(frozen=True)
class ClassScore:
    """Precision, recall and F1 of one class against the others, 0..1."""

    name: str
    precision: float
    recall: float
    f1: float
    n_samples: int


def by_class(
    predicted: np.ndarray, labels: np.ndarray, class_names: Sequence[str]
) -> list[ClassScore]:
    """Return a score for each class: 0 if it was never predicted, or has no sample.

    Equal to scikit-learn's scores, but without its import, which takes longer than the whole
    evaluation.
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
    """Return the unweighted means over classes, by the metrics' names."""
    return {
        f"test_{kind}": fmean(getattr(score, kind) for score in classes)
        for kind in ("precision", "recall", "f1")
    }


def softmax(logits: np.ndarray) -> np.ndarray:
    """Compute probabilities along the last axis, in float64: float32 has too few values near 1."""
    powers = np.exp(logits.astype(np.float64) - logits.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def worst_mistakes(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return the indices of the misclassified samples, those with the largest loss first.

    `probabilities` are (n, classes), `labels` (n,).
    """
    wrong = np.flatnonzero(probabilities.argmax(axis=1) != labels)
    return wrong[np.argsort(probabilities[wrong, labels[wrong]], kind="stable")]


def interval(share: float, n: int) -> tuple[float, float]:
    """Return the 95 % confidence interval of a share of `n` samples (Wilson 1927)."""
    squared = CONFIDENCE**2 / n
    middle = (share + squared / 2) / (1 + squared)
    half = CONFIDENCE / (1 + squared) * math.sqrt(share * (1 - share) / n + squared / 4 / n)
    return max(0.0, middle - half), min(1.0, middle + half)
