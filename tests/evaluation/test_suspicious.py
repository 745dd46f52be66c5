"""Suspicious labels: wrong ones come first, right ones are few."""

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from lab import paths
from lab.data.samples import Samples
from lab.evaluation import suspicious
from retrace.errors import DataError

N_TRAIN = 1000
FLIPPED = np.array([3, 55, 120, 333, 700])  # of the held-out samples


def logits_of(probabilities: list[list[float]]) -> np.ndarray:
    return np.log(np.array(probabilities)).astype(np.float32)


def labeled(labels: list[int], n_classes: int = 2) -> Samples:
    names = tuple("abcdefg"[:n_classes])
    return Samples(np.zeros((len(labels), 1, 2, 2), np.uint8), np.array(labels), names)


def test_thresholds_of_the_paper() -> None:
    # Class a has a mean self-confidence of (0.9 + 0.5 + 0.2) / 3, class b of (0.6 + 0.1) / 2.
    logits = logits_of([[0.9, 0.1], [0.5, 0.5], [0.2, 0.8], [0.4, 0.6], [0.9, 0.1]])
    samples = labeled([0, 0, 0, 1, 1])
    each = suspicious.confidence(logits, samples.labels)
    limits = suspicious.thresholds(each.of_label, samples.labels, 2)
    np.testing.assert_allclose(limits, [1.6 / 3, 0.35], rtol=1e-6)
    rows = suspicious.find({"test": (samples, logits)})
    assert [(row.number, row.label, row.predicted) for row in rows] == [
        (4, "b", "a"),
        (2, "a", "b"),
    ]
    assert [row.margin for row in rows] == pytest.approx([0.8, 0.6])


def test_less_than_usual_confidence_is_none() -> None:
    logits = logits_of([[0.99, 0.01], [0.99, 0.01], [0.6, 0.4], [0.1, 0.9]])
    assert suspicious.find({"test": (labeled([0, 0, 1, 1]), logits)}) == []


def test_class_without_samples_is_never_predicted() -> None:
    logits = logits_of([[0.8, 0.1, 0.1], [0.1, 0.1, 0.8], [0.1, 0.8, 0.1]])
    assert suspicious.find({"test": (labeled([0, 0, 1], 3), logits)}) == []


@pytest.fixture(scope="module")
def digits() -> tuple[np.ndarray, np.ndarray]:
    """Logits and labels of digits that the classifier has not seen."""
    inputs, labels = map(np.asarray, load_digits(return_X_y=True))
    model = LogisticRegression(C=0.01, max_iter=500).fit(inputs[:N_TRAIN] / 16, labels[:N_TRAIN])
    return model.decision_function(inputs[N_TRAIN:] / 16).astype(np.float32), labels[N_TRAIN:]


def found_in(logits: np.ndarray, labels: np.ndarray) -> list[suspicious.Suspicious]:
    samples = Samples(np.zeros((len(labels), 1), np.float32), labels, tuple("0123456789"))
    half = len(labels) // 2
    first = samples.take(np.arange(half))
    second = samples.take(np.arange(half, len(labels)))
    return suspicious.find({"validation": (first, logits[:half]), "test": (second, logits[half:])})


def test_wrong_labels_come_first(digits: tuple[np.ndarray, np.ndarray]) -> None:
    logits, labels = digits
    wrong = labels.copy()
    wrong[FLIPPED] = (labels[FLIPPED] + 5) % 10
    half = len(labels) // 2
    rows = found_in(logits, wrong)[:10]
    listed = {row.number + (half if row.split == "test" else 0) for row in rows}
    assert len(listed & set(FLIPPED.tolist())) >= 4


def test_right_labels_are_few(digits: tuple[np.ndarray, np.ndarray]) -> None:
    logits, labels = digits
    assert len(found_in(logits, labels)) < 0.1 * len(labels)


def test_thousand_classes() -> None:
    rng = np.random.default_rng(0)
    labels = np.arange(5000) % 1000
    logits = rng.normal(size=(5000, 1000)).astype(np.float32)
    logits[np.arange(5000), labels] += 20
    logits[7, 700] += 40
    samples = Samples(np.zeros((5000, 1), np.float32), labels, tuple(map(str, range(1000))))
    (row,) = suspicious.find({"test": (samples, logits)})
    assert (row.number, row.label, row.predicted) == (7, "7", "700")


@pytest.mark.usefixtures("folder")
def test_any_names_are_kept() -> None:
    rows = [
        suspicious.Suspicious("test", 3, 'a "b",\r\n/ü.png', "%s;=1", "</b>\n", 0.9, 0.8),
        suspicious.Suspicious("validation", 0, "0", "", " ", 1.0, 1.0),
    ]
    for each in (rows, []):
        suspicious.save(each)
        assert suspicious.load() == each
    paths.SUSPICIOUS.unlink()
    with pytest.raises(DataError, match="`dvc repro evaluate` writes it"):
        suspicious.load()
