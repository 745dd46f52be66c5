"""Metrics, against their formulas and scikit-learn's."""

import subprocess
import sys

import numpy as np
import pytest
import sklearn.metrics
import torch
from hypothesis import given
from hypothesis import strategies as st
from repository import ROOT

from lab.evaluation import metrics, scores

LOGITS = torch.tensor([[2.0, 0.0], [0.0, 1.0], [3.0, 0.0], [0.0, 0.5]])
LABELS = torch.tensor([0, 1, 1, 1])
PAIRS = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=40)


def test_accuracy_counts_largest_logits() -> None:
    assert scores.accuracy(LOGITS, LABELS) == 0.75
    assert scores.accuracy(LOGITS.T.contiguous().T, LABELS) == 0.75


def test_loss_is_cross_entropy_in_nats() -> None:
    probabilities = torch.softmax(LOGITS, dim=1)[torch.arange(4), LABELS]
    assert scores.loss(LOGITS, LABELS) == pytest.approx(-probabilities.log().mean().item())


def test_averages_are_over_classes() -> None:
    predicted = LOGITS.argmax(dim=1).numpy()
    scores = metrics.by_class(predicted, LABELS.numpy(), ["a", "b"])
    averages = metrics.averaged(scores)
    assert list(averages) == ["test_precision", "test_recall", "test_f1"]
    assert averages["test_precision"] == 0.75
    assert averages["test_recall"] == pytest.approx((1 + 2 / 3) / 2)


@given(PAIRS)
def test_scores_by_class_match_sklearn(pairs: list[tuple[int, int]]) -> None:
    predicted, labels = (np.array(side) for side in zip(*pairs, strict=True))
    scores = metrics.by_class(predicted, labels, ["a", "b", "c", "d"])
    expected = sklearn.metrics.precision_recall_fscore_support(
        labels,
        predicted,
        labels=np.arange(4),
        average=None,
        zero_division=0,  # pyright: ignore[reportArgumentType] - as documented
    )
    names = ("precision", "recall", "f1", "n_samples")
    for name, column in zip(names, expected, strict=True):
        values = [getattr(score, name) for score in scores]
        assert values == pytest.approx(np.asarray(column).tolist(), abs=1e-15), name


@pytest.mark.parametrize(("stage", "imports"), [("evaluate", False), ("visualize", True)])
def test_evaluate_does_not_import_sklearn(stage: str, imports: bool) -> None:
    code = (
        f"import runpy, sys; runpy.run_path('stages/{stage}.py'); print('sklearn' in sys.modules)"
    )
    env = {"PYTHONPATH": "src"}
    command = [sys.executable, "-c", code]
    run = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=True)
    assert run.stdout.split() == [str(imports)]
