"""McNemar's test, the sign-flip test, their intervals, and Holm's correction."""

from math import comb
from typing import Any

import numpy as np
import pytest
from scipy.stats import permutation_test

from retrace.compare import significance


def correct(n: int, only_first: int, only_second: int) -> tuple[np.ndarray, np.ndarray]:
    """Return which of `n` samples two classifiers classify correctly: all but these."""
    first = np.ones(n, dtype=bool)
    second = np.ones(n, dtype=bool)
    second[:only_first] = False
    first[only_first : only_first + only_second] = False
    return first, second


@pytest.mark.parametrize(("b", "c"), [(0, 1), (5, 16), (10, 10), (3, 30), (40, 41)])
def test_mcnemar_p_is_the_binomial_tail(b: int, c: int) -> None:
    tail = sum(comb(b + c, k) for k in range(min(b, c) + 1)) / 2 ** (b + c)
    pairs = significance.mcnemar(*correct(1000, b, c))
    assert pairs.p == pytest.approx(min(1.0, 2 * tail))
    assert (pairs.only_first, pairs.only_second, pairs.difference) == (b, c, (c - b) / 1000)
    swapped = significance.mcnemar(*reversed(correct(1000, b, c)))
    assert (swapped.p, swapped.difference) == (pairs.p, -pairs.difference)
    assert swapped.interval == pytest.approx((-pairs.interval[1], -pairs.interval[0]))


@pytest.mark.parametrize(
    ("b", "c", "is_one"), [(25, 35, False), (25, 55, True), (100, 110, False), (0, 10, True)]
)
def test_mcnemar_depends_on_discordant_samples(b: int, c: int, is_one: bool) -> None:
    assert (significance.mcnemar(*correct(10_000, b, c)).p < significance.SIGNIFICANT) == is_one


def test_mcnemar_without_discordant_samples() -> None:
    pairs = significance.mcnemar(*correct(100, 0, 0))
    assert (pairs.p, pairs.difference) == (1.0, 0.0)
    assert pairs.interval[0] < 0 < pairs.interval[1]


@pytest.mark.parametrize(("lost", "won"), [(0.02, 0.02), (0.01, 0.05), (0.0, 0.1)])
def test_interval_covers_the_true_difference(lost: float, won: float) -> None:
    rng = np.random.default_rng(0)
    hits = 0
    turns = 1000
    for _ in range(turns):
        drawn = rng.random(300)
        first = drawn >= won
        second = (drawn < won) | (drawn >= won + lost)
        low, high = significance.mcnemar(first, second).interval
        hits += low <= won - lost <= high
    assert hits / turns > 0.93


@pytest.mark.parametrize(
    ("ps", "corrected"),
    [
        ([], []),
        ([0.04], [0.04]),
        ([0.01, 0.04, 0.03], [0.03, 0.06, 0.06]),
        ([0.03, 0.02], [0.04, 0.04]),
        ([0.9, 0.8], [1.0, 1.0]),
    ],
)
def test_holm_correction(ps: list[float], corrected: list[float]) -> None:
    assert significance.corrected(ps) == pytest.approx(corrected)


def errors(n: int, shift: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return the absolute errors of two models, of which the second is worse by `shift`."""
    rng = np.random.default_rng(seed)
    first = np.abs(rng.normal(size=n))
    return first, first + shift + rng.normal(size=n) / 2


def by_scipy(first: np.ndarray, second: np.ndarray, n_resamples: Any) -> float:
    result = permutation_test(
        (second, first),
        lambda x, y, axis: np.mean(x - y, axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=n_resamples,
        rng=np.random.default_rng(1),
    )
    return float(result.pvalue)


@pytest.mark.parametrize("n", [2, 5, 12])
@pytest.mark.parametrize("shift", [0.0, 0.3, -1.0])
def test_sign_flip_is_exact_for_few_samples(n: int, shift: float) -> None:
    first, second = errors(n, shift)
    pairs = significance.sign_flip(first, second)
    assert pairs.p == pytest.approx(by_scipy(first, second, np.inf))
    assert significance.sign_flip(second, first).p == pairs.p
    assert pairs.difference == pytest.approx(pairs.mean_second - pairs.mean_first)


@pytest.mark.parametrize("shift", [0.0, 0.05, 0.2])
def test_sign_flip_of_many_samples_is_close(shift: float) -> None:
    first, second = errors(300, shift)
    pairs = significance.sign_flip(first, second)
    assert pairs.p == pytest.approx(by_scipy(first, second, 9_999), abs=0.02)
    assert pairs.p == significance.sign_flip(first, second).p  # the same in each call


def test_sign_flip_of_equal_errors() -> None:
    errors = np.arange(100.0)
    pairs = significance.sign_flip(errors, errors)
    assert (pairs.p, pairs.difference, pairs.interval) == (1.0, 0.0, (0.0, 0.0))


def test_sign_flip_p_is_never_zero() -> None:
    pairs = significance.sign_flip(np.zeros(1000), np.ones(1000))
    assert pairs.p == 1 / (significance.N_PERMUTATIONS + 1)
    ties = significance.sign_flip(np.zeros(4), np.full(4, 0.1))
    assert ties.p == 2 / 2**4


def test_sign_flip_has_its_level() -> None:
    ps = [significance.sign_flip(*errors(15, 0.0, seed)).p for seed in range(200)]
    assert 0.0 < np.mean(np.array(ps) < significance.SIGNIFICANT) < 0.1


def test_sign_flip_of_one_sample() -> None:
    pairs = significance.sign_flip(np.zeros(1), np.ones(1))
    assert (pairs.p, pairs.interval) == (1.0, (-np.inf, np.inf))
