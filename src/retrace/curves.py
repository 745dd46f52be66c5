"""How well a probability tells a class from the rest, at every threshold of it: what scikit-learn's metrics of these
names give, to the bit. Its import takes longer than a stage's pictures; the tests hold one against the other.
"""

from typing import NamedTuple

import numpy as np


class Found(NamedTuple):
    """What is called the class by its probability, a number for each threshold, from the highest on."""

    right: np.ndarray
    wrong: np.ndarray


def found(own: np.ndarray, given: np.ndarray) -> Found:
    """`own` says which samples are the class's, of shape (n,), some and not all; `given` their probabilities (n,)."""
    order = np.argsort(given, kind="stable")[::-1]
    last = np.append(np.flatnonzero(np.diff(given[order])), len(given) - 1)  # samples with the same one come together
    right = np.cumsum(own[order])[last].astype(float)
    return Found(right, 1 + last - right)


def precision_recall(of: Found) -> tuple[np.ndarray, np.ndarray]:
    """Precision and recall from the lowest threshold on, which finds all, to (1, 0), which finds nothing."""
    precision, recall = of.right / (of.right + of.wrong), of.right / of.right[-1]
    return np.append(precision[::-1], 1.0), np.append(recall[::-1], 0.0)


def average_precision(of: Found) -> float:
    """The mean of precision, weighted by the recall that each threshold adds; 0..1."""
    precision, recall = precision_recall(of)
    return max(0.0, float(-np.sum(np.diff(recall) * precision[:-1])))


def roc(of: Found) -> tuple[np.ndarray, np.ndarray]:
    """False and true positive rate from (0, 0) to (1, 1), without the points on a straight line between others."""
    right, wrong = _without(of, np.diff(of.right, 2) != 0, np.diff(of.wrong, 2) != 0)
    right, wrong = np.insert(right, 0, 0.0), np.insert(wrong, 0, 0.0)
    return wrong / wrong[-1], right / right[-1]


def area(false: np.ndarray, true: np.ndarray) -> float:
    """Under the curve `roc` gives, 0..1."""
    return float(np.trapezoid(true, false))


def corners(of: Found) -> Found:
    """Without the thresholds between others at which as many are right: precision and recall are best at the ends."""
    return _without(of, np.diff(of.right[:-1]) != 0, np.diff(of.right[1:]) != 0)


def _without(of: Found, *needed: np.ndarray) -> Found:
    """The first threshold, the last, and those between them that are needed for any reason."""
    if len(of.right) <= 2:
        return of
    kept = np.concatenate([[True], np.logical_or(*needed), [True]])
    return Found(of.right[kept], of.wrong[kept])
