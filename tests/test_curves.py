"""Curves over all thresholds are what scikit-learn's functions of the same names give."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics

from retrace import curves, evaluation

Scored = list[tuple[bool, int]]


def both(scored: Scored) -> tuple[np.ndarray, np.ndarray]:
    own, scores = zip(*scored, (True, 3), (False, 3), strict=True)
    return np.array(own), np.array(scores) / 7


SCORED = st.lists(st.tuples(st.booleans(), st.integers(0, 7)), max_size=40)  # few values, so that there are ties


@given(SCORED)
def test_precision_and_recall_are_scikit_learn_s(scored: Scored) -> None:
    own, scores = both(scored)
    of = curves.found(own, scores)
    for ours, drop in ((of, False), (curves.corners(of), True)):
        precision, recall, _ = metrics.precision_recall_curve(own, scores, drop_intermediate=drop)
        np.testing.assert_array_equal(curves.precision_recall(ours), (precision, recall))
    assert curves.average_precision(of) == pytest.approx(metrics.average_precision_score(own, scores), abs=1e-15)


@given(SCORED)
def test_roc_and_its_area_are_scikit_learn_s(scored: Scored) -> None:
    own, scores = both(scored)
    rates = curves.roc(curves.found(own, scores))
    np.testing.assert_array_equal(rates, metrics.roc_curve(own, scores)[:2])
    assert curves.area(*rates) == metrics.auc(*rates)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=40))
def test_scores_by_class_are_scikit_learn_s(pairs: list[tuple[int, int]]) -> None:
    predicted, labels = (np.array(side) for side in zip(*pairs, strict=True))
    ours = evaluation.by_class(predicted, labels, ["a", "b", "c", "d"])
    theirs = metrics.precision_recall_fscore_support(
        labels,
        predicted,
        labels=np.arange(4),
        average=None,
        zero_division=0,  # pyright: ignore[reportArgumentType] - as documented
    )
    for name, column in zip(("precision", "recall", "f1", "n_samples"), theirs, strict=True):
        assert [getattr(score, name) for score in ours] == pytest.approx(np.asarray(column).tolist(), abs=1e-15), name


def test_a_better_score_has_the_better_curve() -> None:
    own = np.array([True, True, False, False])
    best, worst = (curves.found(own, np.array(scores)) for scores in ([0.9, 0.8, 0.2, 0.1], [0.1, 0.2, 0.8, 0.9]))
    assert curves.average_precision(best) == curves.area(*curves.roc(best)) == 1.0
    assert curves.area(*curves.roc(worst)) == 0.0
