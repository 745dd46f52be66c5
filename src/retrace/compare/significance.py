"""Paired tests: does one of two models predict the same samples better?

For classes it is McNemar's test, in which only discordant samples count: those that exactly one of
the two classifies correctly. For numbers it is a permutation test of the absolute errors. Neither
tells how much the result varies between seeds; `retrace leaderboard` does.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf, sqrt

import numpy as np
from scipy.stats import binomtest
from scipy.stats import t as student_t

SIGNIFICANT = 0.05  # p-values below it are called significant
Z = 1.96  # the normal distribution's quantile for 95 %
N_EXACT = 20  # samples with different errors, up to which all 2**n permutations are counted
N_PERMUTATIONS = 9_999  # for more samples, at random; fewer if there are more than MAX_SIGNS signs
LEAST_PERMUTATIONS = 999
MAX_SIGNS = 2 * 10**8
CHUNK = 10**7  # signs that are in memory at the same time


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

    test = "McNemar"

    @property
    def is_second_better(self) -> bool:
        return self.difference > 0


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


@dataclass(frozen=True)
class PairedErrors:
    """The second model compared with the first by their mean absolute errors.

    `interval` is the 95 % confidence interval of the difference: negative if the second is better.
    """

    n_samples: int
    mean_first: float
    mean_second: float
    difference: float
    interval: tuple[float, float]
    p: float  # the probability of a difference at least as large by chance

    test = "sign flip"

    @property
    def is_second_better(self) -> bool:
        return self.difference < 0


def sign_flip(first: np.ndarray, second: np.ndarray) -> PairedErrors:
    """Compare two models by their absolute errors on the same samples, (n,) float64 each.

    If the models are equally good, each sample's difference is as likely with the other sign: p is
    the share of sign patterns whose mean difference is at least as far from 0. The interval is
    Student's, which holds for the mean of many samples.
    """
    differences = second - first
    n = len(differences)
    mean = float(differences.mean())
    spread = float(differences.std(ddof=1)) / sqrt(n) if n > 1 else inf
    reach = float(student_t.ppf(0.975, n - 1)) * spread if n > 1 else inf
    return PairedErrors(
        n_samples=n,
        mean_first=float(first.mean()),
        mean_second=float(second.mean()),
        difference=mean,
        interval=(mean - reach, mean + reach),
        p=_share_of_patterns(differences[differences != 0]),
    )


def _share_of_patterns(differences: np.ndarray) -> float:
    """Return the share of sign patterns that give a sum at least as far from 0 as this one.

    With random patterns, the one at hand counts as one of them.
    """
    n = len(differences)
    scale = float(np.abs(differences).sum())
    reached = abs(float(differences.sum())) - 1e-12 * scale  # equal but for rounding
    if n <= N_EXACT:
        sums = np.zeros(1)
        for difference in differences:
            sums = np.concatenate([sums + difference, sums - difference])
        return float((np.abs(sums) >= reached).mean())
    n_patterns = max(LEAST_PERMUTATIONS, min(N_PERMUTATIONS, MAX_SIGNS // n))
    rng = np.random.default_rng(0)
    n_reached = 0
    for begin in range(0, n_patterns, max(1, CHUNK // n)):
        rows = min(max(1, CHUNK // n), n_patterns - begin)
        bits = np.frombuffer(rng.bytes(rows * (-(-n // 8))), np.uint8).reshape(rows, -1)
        is_flipped = np.unpackbits(bits, axis=1, count=n)
        sums = differences.sum() - 2 * (is_flipped @ differences)
        n_reached += int((np.abs(sums) >= reached).sum())
    return (n_reached + 1) / (n_patterns + 1)


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
