"""Mixup and cutmix, against the papers' formulas; the same in any number of processes."""

from typing import Any

import numpy as np
import pytest
import torch
from conftest import typed
from torch import Tensor
from trainings import Training, complete_and_resumed

from lab import params
from lab.data import storage
from lab.data.samples import Samples
from lab.models import initialization
from lab.training import losses, mixing
from lab.training.losses import LOSSES
from lab.training.mixing import Mixing
from lab.training.processes import ALONE, Group
from retrace.errors import ParamsError
from retrace.pipeline import params_yaml

CPU = torch.device("cpu")
LABELS = torch.tensor([0, 1, 2, 0])
MIXES = {"mixup": {"mixup": 0.4}, "cutmix": {"cutmix": 1.0}, "both": {"mixup": 0.4, "cutmix": 1.0}}


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images(n: int = 4, side: int = 8) -> Tensor:
    return torch.randint(0, 256, (n, 3, side, side), dtype=torch.uint8, generator=seeded())


def test_mixup_is_weighted_mean() -> None:
    features = torch.tensor([[0.0, 8.0], [4.0, 0.0]])
    mixed = mixing.mixup(features, features.flip(0), 0.75)
    assert mixed.tolist() == [[1.0, 6.0], [3.0, 2.0]]
    dark, light = torch.full((1, 1, 2, 2), 10, dtype=torch.uint8), torch.full((1, 1, 2, 2), 21)
    mixed = mixing.mixup(dark, light.to(torch.uint8), 0.5)
    assert mixed.dtype == torch.uint8
    assert (mixed == 16).all()  # 15.5, rounded to even


@pytest.mark.parametrize("share", [0.0, 0.36, 0.75, 1.0])
def test_cutmix_pastes_a_rectangle(share: float) -> None:
    zeros = torch.zeros(2, 1, 10, 20, dtype=torch.uint8)
    ones = torch.ones_like(zeros)
    areas = set()
    for seed in range(100):
        rng = np.random.default_rng(seed)
        mixed, left = mixing.cutmix(zeros, ones, share, rng)
        assert torch.equal(mixed[0], mixed[1])
        pasted = mixed[0, 0].bool()
        height, width = pasted.any(1).sum().item(), pasted.any(0).sum().item()
        assert pasted.sum() == height * width
        assert left == pytest.approx(1 - height * width / 200)
        areas.add((height, width))
    # An even number of pixels, at most: sqrt(1 - share) of each side.
    side = (1 - share) ** 0.5
    assert tuple(map(max, zip(*areas, strict=True))) == (
        int(10 * side) // 2 * 2,
        int(20 * side) // 2 * 2,
    )


def test_targets_begin_with_larger_share() -> None:
    assert mixing.targets(LABELS, 0.75)[:2].tolist() == [[0, 0, 0.75], [1, 2, 0.75]]
    assert mixing.targets(LABELS, 0.25)[:2].tolist() == [[0, 0, 0.75], [2, 1, 0.75]]
    assert losses.main_labels(mixing.targets(LABELS, 0.25)).tolist() == [0, 2, 1, 0]
    assert losses.main_labels(LABELS) is LABELS


@pytest.mark.parametrize("name", LOSSES)
def test_loss_is_weighted_by_share(values: params_yaml.Values, name: str) -> None:
    counts = torch.tensor([10, 10, 10])
    loss = LOSSES[name](counts, **values["losses"][name])
    logits = torch.randn(4, 3, generator=seeded())
    targets = mixing.targets(LABELS, 0.25)
    mixed = losses.of_rows(loss, logits, targets, slice(0, 4))
    expected = 0.25 * loss(logits, LABELS) + 0.75 * loss(logits, LABELS.flip(0))
    torch.testing.assert_close(mixed, expected)
    parts = [slice(0, 1), slice(1, 4)]
    summed = sum(losses.of_rows(loss, logits[part], targets, part) for part in parts)
    torch.testing.assert_close(summed, expected)


def test_shares_are_beta_distributed() -> None:
    shares = []
    generator = seeded()
    for _ in range(2000):
        _, targets = Mixing(0.4, 0.0).mixed(images(2, 1), LABELS[:2], generator, ALONE)
        shares.append(targets[0, 2].item())
    # Of the larger of x and 1 - x, where x has the distribution beta(0.4, 0.4).
    larger = np.random.default_rng(0).beta(0.4, 0.4, 100_000)
    assert np.mean(shares) == pytest.approx(np.maximum(larger, 1 - larger).mean(), abs=0.01)


def test_both_take_turns() -> None:
    pictures = torch.zeros(2, 1, 8, 8, dtype=torch.uint8)
    pictures[1] = 255
    generator = seeded()
    mixes = [Mixing(5.0, 5.0).mixed(pictures, LABELS[:2], generator, ALONE) for _ in range(200)]
    n_cut = sum(set(mixed.unique().tolist()) <= {0, 255} for mixed, _ in mixes)
    assert 70 < n_cut < 130


@pytest.mark.parametrize("name", MIXES)
@pytest.mark.parametrize("size", [2, 3])
def test_processes_mix_the_same_images(name: str, size: int) -> None:
    mix = Mixing(**{"mixup": 0.0, "cutmix": 0.0} | MIXES[name])
    labels = torch.arange(10)
    whole, targets = mix.mixed(images(10), labels, seeded(), ALONE)
    parts = []
    for rank in range(size):
        group = Group(rank, size, CPU)
        read = images(10)[mix.part(group)(10)]
        part, own_targets = mix.mixed(read, labels, seeded(), group)
        assert torch.equal(own_targets, targets)
        parts.append(part)
    assert torch.equal(torch.cat(parts), whole)


@pytest.mark.parametrize("augmentation", ["none", "shift"])
@pytest.mark.parametrize("name", MIXES)
def test_mixed_training_resumes_to_the_bit(stripes: Samples, name: str, augmentation: str) -> None:
    changed: dict[str, Any] = {"augmentation": augmentation} | MIXES[name]
    complete, resumed = complete_and_resumed(lambda: Training(stripes, **changed))
    assert resumed.bits() == complete.bits()
    assert complete.bits() != Training(stripes, augmentation=augmentation).bits()


def test_full_batch_is_mixed(stripes: Samples) -> None:
    training = Training(stripes, batch_size=1000, mixup=0.4, augmentation="none")
    before = training.trainer.train_split.inputs[:].clone()
    (batch,) = training.trainer.batches()
    inputs, targets = batch
    assert (inputs.shape, targets.shape) == (before.shape, (280, 3))
    assert not torch.equal(inputs, before)
    assert torch.equal(training.trainer.train_split.inputs[:], before)


def test_accuracy_counts_the_larger_share(
    stripes: Samples, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = Training(stripes, mixup=0.4, augmentation="none")
    trainer = training.trainer
    inputs, targets = next(trainer.batches())
    logits = torch.nn.functional.one_hot(targets[:, 0].long(), 3).float().requires_grad_()
    monkeypatch.setattr(trainer.state.model, "forward", lambda _: logits)
    assert trainer.step(inputs, targets)[1] == len(targets)


@pytest.mark.parametrize("key", ["cutmix", "input_size"])
def test_features_have_no_rectangle(key: str) -> None:
    circles = Samples(np.zeros((6, 2), np.float32), np.arange(6) % 2, ("a", "b"))
    changed: dict[str, Any] = {"augmentation": "none", "model": "mlp", key: 1}
    p = typed(params.Train, **changed | {"cutmix": float(changed.get("cutmix", 0))})
    with pytest.raises(ParamsError, match=rf"^params.yaml: {key} is 1.*; should be 0") as error:
        initialization.build(p, circles, storage.scale(circles))
    assert "\n" not in str(error.value)
    p = typed(params.Train, augmentation="none", model="mlp", mixup=0.2)
    initialization.build(p, circles, storage.scale(circles))
