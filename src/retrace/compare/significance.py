"""McNemar's test: do two classifiers differ in accuracy on the same samples?

Only discordant samples count: those that exactly one of the two classifies correctly. The test does
not tell how much the result varies between seeds; `retrace leaderboard` does.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt

import numpy as np
from scipy.stats import binomtest

SIGNIFICANT = 0.05  # p-values below it are called significant
Z = 1.96  # the normal distribution's quantile for 95 %


@dataclass(frozen=True)
class Paired:
    """The second classifier compared with the first.

    Accuracies are 0..1; `interval` is the 95 % confidence interval of their difference.
    """

    n_samples: int
    only_first: int  # samples that only the first classifies correctly
    only_second: int
    difference: float
    interval: tuple[float, float]
    p: float  # McNemar's: the probability of a split at least as uneven by chance


def mcnemar(first: np.ndarray, second: np.ndarray) -> Paired:
    """Compare two classifiers by which of the same samples each classifies correctly: (n,) bool.

    McNemar's test is exact. The interval is Bonett and Price's (2012), with one more discordant
    sample of each kind, so that it holds if there are few or none. It is an approximation: at the
    edge of significance, the two may disagree, and then the p-value counts.
    """
    n = len(first)
    only_first = int((first & ~second).sum())
    only_second = int((second & ~first).sum())
    lost = (only_first + 1) / (n + 2)
    won = (only_second + 1) / (n + 2)
    reach = Z * sqrt((lost + won - (won - lost) ** 2) / (n + 2))
    interval = max(-1.0, won - lost - reach), min(1.0, won - lost + reach)
    discordant = only_first + only_second
    p = float(binomtest(only_first, discordant).pvalue) if discordant else 1.0
    return Paired(n, only_first, only_second, (only_second - only_first) / n, interval, p)


def corrected(ps: Sequence[float]) -> list[float]:
    """Correct the p-values of several tests by Holm's method (1979).

    This controls the family-wise error rate at the level of a single test.
    """
    order = sorted(range(len(ps)), key=lambda i: ps[i])
    adjusted = [0.0] * len(ps)
    least = 0.0
    for rank, i in enumerate(order):
        least = max(least, min(1.0, (len(ps) - rank) * ps[i]))
        adjusted[i] = least
    return adjusted
