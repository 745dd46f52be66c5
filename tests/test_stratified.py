"""Parts and folds are those of scikit-learn's functions, to the sample."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.model_selection import StratifiedKFold, train_test_split

from retrace import stratified

LABELS = st.lists(st.integers(0, 6), min_size=1, max_size=60).map(np.array)
SEEDS = st.integers(0, 2**32 - 1)


@given(LABELS, st.floats(0.01, 0.99), SEEDS)
def test_a_split_is_that_of_train_test_split(labels: np.ndarray, fraction: float, seed: int) -> None:
    everything = np.arange(len(labels))
    try:
        kept, taken = train_test_split(everything, test_size=fraction, random_state=seed, stratify=labels)
    except ValueError as error:
        if "least populated class" in str(error):  # one sample, which `dealing` refuses by the class's name
            return
        with pytest.raises(ValueError, match=r"\d+ would be (kept|taken), of \d classes"):
            stratified.split(labels, fraction, seed)
    else:
        for part, same in zip(stratified.split(labels, fraction, seed), (kept, taken), strict=True):
            assert part.tolist() == sorted(same)


@given(LABELS, st.integers(2, 6), SEEDS)
def test_folds_are_those_of_stratified_k_fold(labels: np.ndarray, n: int, seed: int) -> None:
    each = np.tile(labels, n)  # as many of a class as there are folds, at least
    dealt = stratified.folds(each, n, seed)
    for fold, (_, same) in enumerate(StratifiedKFold(n, shuffle=True, random_state=seed).split(each, each)):
        assert np.flatnonzero(dealt == fold).tolist() == same.tolist()
