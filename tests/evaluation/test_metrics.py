"""Scores by class are scikit-learn's, which evaluate does without."""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from repository import ROOT
from sklearn import metrics

from lab.evaluation import inference

PAIRS = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=40)


@given(PAIRS)
def test_scores_by_class_match_sklearn(pairs: list[tuple[int, int]]) -> None:
    predicted, labels = (np.array(side) for side in zip(*pairs, strict=True))
    scores = inference.by_class(predicted, labels, ["a", "b", "c", "d"])
    expected = metrics.precision_recall_fscore_support(
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
