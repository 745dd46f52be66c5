"""The direction of a metric by its name, and metrics files."""

import pytest

from retrace.pipeline import metrics


@pytest.mark.parametrize(
    "name",
    [
        "val_loss",
        "loss",
        "eval/loss",
        "mlogloss",
        "test_calibration_error",
        "validation-error",
        "train_s",
        "rmse",
    ],
)
def test_names_to_minimize(name: str) -> None:
    assert metrics.direction(name) == "minimize"


@pytest.mark.parametrize(
    "name",
    [
        "test_accuracy",
        "f1_score",
        "images_per_s",
        "roc_auc",
        "neg_mean_squared_error",
        "classes",
        "gloss",
    ],
)
def test_names_to_maximize(name: str) -> None:
    assert metrics.direction(name) == "maximize"


def test_metrics_file_is_flattened_to_numbers() -> None:
    content = b'{"test": {"loss": 0.5, "note": "x"}, "n": 3}'
    assert metrics.parse_metrics(content) == {"test.loss": 0.5, "n": 3}


def test_metrics_file_without_a_table_has_none() -> None:
    assert metrics.parse_metrics(b"[1]") == {}


@pytest.mark.parametrize("content", [b"", b"{", b"\xff"])
def test_metrics_file_that_is_no_json(content: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - of several kinds
        metrics.parse_metrics(content)
