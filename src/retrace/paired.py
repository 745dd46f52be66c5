"""Whether one network tells more of the same samples right than another: a test in pairs, in which all samples that
both tell alike fall out.

It speaks of these two networks. How much another seed would change is `retrace leaderboard`'s to say.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt

import numpy as np
from scipy.stats import binomtest

SIGNIFICANT = 0.05  # a p-value below is called a difference
Z = 1.96  # of a normal distribution, 95 % is so near to the middle


@dataclass(frozen=True)
class Paired:
    """The second network against the first. Accuracies are 0..1, `interval` is where their true difference is with
    95 %.
    """

    n_samples: int
    only_first: int  # samples that the first alone tells right
    only_second: int
    difference: float
    interval: tuple[float, float]
    p: float  # McNemar's: how often chance alone would part the discordant samples as unevenly


def compared(first: np.ndarray, second: np.ndarray) -> Paired:
    """Both say of each sample, in the same order, whether it is told right: (n,) bool.

    McNemar's test in its exact form; the interval is Bonett and Price's (2012), with one more sample of each
    discordant kind, which stays honest where they are few or none. It is an approximation: at the edge of significance
    the two may disagree, and the p-value counts.
    """
    n, b, c = len(first), int((first & ~second).sum()), int((second & ~first).sum())
    lost, won = (b + 1) / (n + 2), (c + 1) / (n + 2)
    reach = Z * sqrt((lost + won - (won - lost) ** 2) / (n + 2))
    interval = max(-1.0, won - lost - reach), min(1.0, won - lost + reach)
    p = float(binomtest(b, b + c).pvalue) if b + c else 1.0
    return Paired(n, b, c, (c - b) / n, interval, p)


def corrected(ps: Sequence[float]) -> list[float]:
    """The p-values of several tests after Holm (1979): the chance that one of them or more is wrongly significant
    stays below what is asked of each.
    """
    order, found, least = sorted(range(len(ps)), key=lambda i: ps[i]), [0.0] * len(ps), 0.0
    for rank, i in enumerate(order):
        least = found[i] = max(least, min(1.0, (len(ps) - rank) * ps[i]))
    return found
