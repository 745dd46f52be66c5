"""Losses, against PyTorch's, scikit-learn's and their formulas."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from sklearn.utils.class_weight import compute_class_weight

from lab.training import losses
from lab.training.losses import (
    LOSSES,
    LossFunction,
    cross_entropy,
    cross_entropy_scratch,
    focal,
    mse,
)
from retrace.errors import ParamsError
from retrace.pipeline import params_yaml

EVEN = torch.tensor([10, 10, 10])  # samples of each class
LOGITS = torch.randn(30, 3, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(30) % 3


def test_cross_entropy_is_log_likelihood() -> None:
    logits = torch.tensor([[0.0, math.log(3)]])
    labels = torch.tensor([0])
    for smoothing, expected in ((0.0, math.log(4)), (0.2, math.log(4) - 0.1 * math.log(3))):
        loss = cross_entropy(EVEN[:2], label_smoothing=smoothing, class_weights="none")
        assert loss(logits, labels).item() == pytest.approx(expected)


@pytest.mark.parametrize("smoothing", [0.1, 0.9])
def test_smoothed_cross_entropy_equals_torch(
    smoothing: float,
) -> None:
    weights = torch.tensor([0.5, 1.0, 4.0])
    for labels in LABELS, LABELS[:1].expand(30):
        expected = F.cross_entropy(LOGITS, labels, weights, label_smoothing=smoothing)
        assert losses._smoothed(LOGITS, labels, weights, smoothing).item() == pytest.approx(
            expected.item()
        )


@pytest.mark.parametrize("name", LOSSES)
def test_strides_of_logits_do_not_matter(values: params_yaml.Values, name: str) -> None:
    assert_strides_do_not_matter(LOSSES[name](EVEN, **values["losses"][name]), n=1)
    assert_strides_do_not_matter(LOSSES[name](EVEN, **values["losses"][name]), n=30)


def test_strides_do_not_matter_with_class_weights() -> None:
    loss = cross_entropy(EVEN, label_smoothing=0.1, class_weights=[1.0, 2.0, 3.0])
    assert_strides_do_not_matter(loss, n=30)


def assert_strides_do_not_matter(loss: LossFunction, n: int) -> None:
    """Assert that loss and gradient are equal for logits stored by sample and by class."""
    results = []
    for logits in (LOGITS[:n].clone(), LOGITS[:n].T.contiguous().T):
        logits.requires_grad_()
        value = loss(logits, LABELS[:n])
        value.backward()
        results.append((value.detach(), logits.grad))
    torch.testing.assert_close(*results)


@pytest.mark.parametrize("name", LOSSES)
def test_losses_fall_with_a_surer_true_class(values: params_yaml.Values, name: str) -> None:
    loss = LOSSES[name](EVEN, **values["losses"][name])
    sure = F.one_hot(LABELS, 3).float()
    assert loss(sure, LABELS) < loss(LOGITS, LABELS)


def test_focal_and_scratch_equal_cross_entropy() -> None:
    plain = F.cross_entropy(LOGITS, LABELS)
    torch.testing.assert_close(focal(EVEN, gamma=0.0, alpha="none")(LOGITS, LABELS), plain)
    torch.testing.assert_close(cross_entropy_scratch(EVEN)(LOGITS, LABELS), plain)
    torch.testing.assert_close(cross_entropy_scratch(EVEN)(LOGITS + 500, LABELS), plain)


def test_focal_weighs_samples_and_classes() -> None:
    logits = torch.tensor([[math.log(3), 0.0], [0.0, 0.0]])
    labels = torch.tensor([0, 1])
    expected = (2.0 * 0.25**2 * -math.log(0.75) + 5.0 * 0.5**2 * -math.log(0.5)) / 2
    loss = focal(EVEN[:2], gamma=2.0, alpha=[2.0, 5.0])
    assert loss(logits, labels).item() == pytest.approx(expected)


def test_focal_gradient_is_finite_for_p_of_1() -> None:
    logits = torch.tensor([[200.0, 0.0]], requires_grad=True)
    focal(EVEN[:2], gamma=0.5, alpha="none")(logits, torch.tensor([0])).backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


def test_balanced_weights_equal_sklearn() -> None:
    labels = torch.tensor([0] * 6 + [1] * 3 + [2])
    logits = torch.randn(10, 3, generator=torch.Generator().manual_seed(1))
    theirs = compute_class_weight("balanced", classes=np.arange(3), y=labels.numpy())
    weights = torch.tensor(theirs, dtype=torch.float32)
    loss = cross_entropy(labels.bincount(), label_smoothing=0.0, class_weights="balanced")
    torch.testing.assert_close(loss(logits, labels), F.cross_entropy(logits, labels, weights))


def test_mse_is_against_one_hot() -> None:
    loss = mse(EVEN[:2])(torch.tensor([[0.5, -1.0]]), torch.tensor([0]))
    assert loss.item() == pytest.approx((0.25 + 1) / 2)


def test_too_few_class_weights_are_refused() -> None:
    with pytest.raises(ParamsError, match="losses.focal.alpha has 2 numbers.* 3 classes"):
        focal(EVEN, gamma=2.0, alpha=[1.0, 1.0])
