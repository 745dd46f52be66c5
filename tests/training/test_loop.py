"""The training loop: what it learns, reports, keeps and repeats to the bit."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from conftest import typed
from ranks import LOSSES as LOSSES_BY_SETTINGS
from ranks import gradients
from torch import Tensor

from lab import params
from lab.data import batches, split, storage
from lab.data.batches import Split
from lab.data.samples import Samples, Splits
from lab.errors import DivergedError
from lab.evaluation import inference, scores
from lab.models import classifier
from lab.training import device, loop, processes
from lab.training.augmentations import AUGMENTATIONS
from lab.training.losses import LOSSES
from lab.training.optimizers import OPTIMIZERS
from lab.training.schedules import SCHEDULES, Moment
from lab.training.state import Epoch, Step
from retrace.pipeline import params_yaml

TABLES = {
    "losses": LOSSES,
    "optimizers": OPTIMIZERS,
    "schedules": SCHEDULES,
    "augmentations": AUGMENTATIONS,
}
SMALL = {"epochs": 3, "batch_size": 16, "threads": 1, "lr": 0.01, "device": "cpu", "keep": "last"}
N_STEPS = 12  # of an epoch
ONE_PLAIN_STEP = {
    "optimizer": "sgd_scratch",
    "schedule": "constant",
    "lr": 1.0,
    "epochs": 1,
    "batch_size": 1000,
    "precision": "float32",
}
FROZEN = {"model": "cifar_v3", "freeze_backbone": True, "augmentation": "none"}

pytestmark = pytest.mark.usefixtures("folder")


@pytest.mark.parametrize("kind", TABLES)
def test_every_entry_has_valid_settings(values: params_yaml.Values, kind: str) -> None:
    table: dict[str, Callable[..., object]] = dict(TABLES[kind])
    assert set(params.bind_all(table, values[kind], kind)) == set(table)


@pytest.fixture
def splits(stripes: Samples) -> tuple[Split, Split]:
    """The stripes' train and validation splits."""
    p = typed(params.Preprocess, validation_fraction=0.2)
    train, validation, _ = split.split(Splits(stripes), p)
    cpu = torch.device("cpu")
    return batches.on_device(train, cpu), batches.on_device(validation, cpu)


class Fitted:
    """A classifier trained on the stripes, and what the callbacks got."""

    def __init__(
        self,
        splits: tuple[Split, Split],
        stripes: Samples,
        *,
        precompute: bool = False,
        **changed: object,
    ) -> None:
        p = typed(params.Train, **(SMALL | changed))
        compute = device.configure(p, p.precision)
        torch.manual_seed(p.seed)
        config = classifier.config_of(p.model, stripes, storage.scale(stripes))
        self.model = classifier.build(config)
        self.initial = self.weights()
        if p.freeze_backbone:
            self.model.freeze_backbone()
        self.trainer = loop.create(p, compute, self.model, *splits, n_classes=3)
        if precompute:
            self.trainer.precompute_features()
        self.epochs: list[Epoch] = []
        self.steps: list[Step] = []
        self.weights_by_epoch: list[dict[str, Tensor]] = []
        self.kept = self.trainer.train(self.steps.append, self._on_epoch)

    def change(self, name: str) -> Tensor:
        """Return how a weight has changed."""
        return self.weights()[name] - self.initial[name]

    def weights(self) -> dict[str, Tensor]:
        return copy.deepcopy(self.model.state_dict())

    def _on_epoch(self, epoch: Epoch) -> None:
        self.epochs.append(epoch)
        self.weights_by_epoch.append(self.weights())


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    """Return whether all weights are equal to the bit."""
    return all(torch.equal(weight, other[name]) for name, weight in one.items())


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_training_learns(splits: tuple[Split, Split], stripes: Samples, precision: str) -> None:
    fitted = Fitted(splits, stripes, precision=precision)
    validation = splits[1]
    logits = inference.outputs(fitted.model, validation).logits
    assert fitted.epochs[0].train_accuracy < 0.9 < fitted.epochs[-1].val_accuracy
    assert fitted.kept == fitted.epochs[-1]
    assert fitted.kept.val_loss == scores.loss(logits, validation.labels)
    assert fitted.kept.val_accuracy == scores.accuracy(logits, validation.labels)


def test_callbacks_get_every_step_and_epoch(splits: tuple[Split, Split], stripes: Samples) -> None:
    fitted = Fitted(splits, stripes)
    assert [epoch.epoch for epoch in fitted.epochs] == [1, 2, 3]
    assert [step.step for step in fitted.steps] == list(range(1, 3 * N_STEPS + 1))
    assert sum(step.n_images for step in fitted.steps) == 3 * len(splits[0])
    assert fitted.steps[-1].learning_rate < 0.001


def test_schedule_gets_middle_of_each_step(
    splits: tuple[Split, Split], stripes: Samples, monkeypatch: pytest.MonkeyPatch
) -> None:
    moments: list[Moment] = []

    def constant(at: Moment) -> float:
        moments.append(at._replace(val_losses=list(at.val_losses)))
        return 1.0

    monkeypatch.setitem(SCHEDULES, "constant", constant)
    fitted = Fitted(splits, stripes, schedule="constant")
    n = 3 * N_STEPS
    assert [at.done for at in moments] == [(step + 0.5) / n for step in range(n)]
    assert [at.epoch for at in moments] == [step // N_STEPS for step in range(n)]
    assert moments[-1].val_losses == [epoch.val_loss for epoch in fitted.epochs[:2]]


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_seed_decides_the_bits(
    splits: tuple[Split, Split], stripes: Samples, optimizer: str
) -> None:
    first, second, other = (
        Fitted(splits, stripes, optimizer=optimizer, seed=seed) for seed in (0, 0, 1)
    )
    assert first.epochs == second.epochs
    for name, weight in first.weights().items():
        assert torch.equal(weight, second.weights()[name])
        assert not torch.equal(weight, other.weights()[name])
        assert not torch.equal(weight, first.initial[name])


def test_validation_changes_no_weight(splits: tuple[Split, Split], stripes: Samples) -> None:
    train, validation = splits
    flipped = Split(validation.inputs[:].flip(0), validation.labels)
    first = Fitted((train, validation), stripes)
    second = Fitted((train, flipped), stripes)
    assert first.epochs != second.epochs
    assert equal(first.weights(), second.weights())


def validate_as(monkeypatch: pytest.MonkeyPatch, *losses: float) -> None:
    """Let the epochs have these validation losses, whatever the machine's rounding."""
    left = iter(losses)
    monkeypatch.setattr(loop, "validate", lambda *_: (next(left), 0.5))


@pytest.mark.parametrize(("keep", "number"), [("best", 2), ("last", 4)])
def test_best_or_last_weights_are_kept(
    splits: tuple[Split, Split],
    stripes: Samples,
    monkeypatch: pytest.MonkeyPatch,
    keep: str,
    number: int,
) -> None:
    validate_as(monkeypatch, 0.9, 0.5, 0.7, 0.5)
    fitted = Fitted(splits, stripes, keep=keep, epochs=4)
    equals = [equal(fitted.weights(), weights) for weights in fitted.weights_by_epoch]
    assert fitted.kept == fitted.epochs[number - 1]
    assert equals == [epoch == number for epoch in (1, 2, 3, 4)]


def test_training_stops_when_patience_ends(
    splits: tuple[Split, Split], stripes: Samples, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses = (0.9, 0.95, 0.8, 0.8, 0.85, 0.1)
    validate_as(monkeypatch, *losses)
    fitted = Fitted(splits, stripes, patience=2, epochs=6)
    assert [epoch.val_loss for epoch in fitted.epochs] == list(losses[:5])


def test_frozen_backbone_is_not_changed(splits: tuple[Split, Split], stripes: Samples) -> None:
    fitted = Fitted(splits, stripes, **FROZEN)
    for name, weight in fitted.weights().items():
        assert torch.equal(weight, fitted.initial[name]) == name.startswith("trunk.")


def test_precomputed_features_teach_the_same(splits: tuple[Split, Split], stripes: Samples) -> None:
    behind, alone = (
        Fitted(splits, stripes, **FROZEN, precision="float32", precompute=precompute)
        for precompute in (False, True)
    )
    torch.testing.assert_close(alone.weights(), behind.weights())
    assert not torch.equal(alone.weights()["head.weight"], alone.initial["head.weight"])
    assert alone.epochs[-1].val_loss == pytest.approx(behind.epochs[-1].val_loss, rel=1e-4)


def test_divergence_ends_training(splits: tuple[Split, Split], stripes: Samples) -> None:
    with pytest.raises(DivergedError, match=r"step \d: .* loss is nan, after [\d.e+]+ .* lower lr"):
        Fitted(splits, stripes, optimizer="sgd", lr=1000.0)


def test_one_step_changes_the_weights(splits: tuple[Split, Split], stripes: Samples) -> None:
    fitted = Fitted(splits, stripes, epochs=1, batch_size=1000)
    assert len(fitted.steps) == 1
    assert not torch.equal(fitted.weights()["head.weight"], fitted.initial["head.weight"])


@pytest.mark.parametrize("name", LOSSES_BY_SETTINGS)
def test_accumulation_equals_one_pass(name: str) -> None:
    """Batches of 100, 100 and 80 samples in parts of 34, 33, 33 and of 27, 27, 26."""
    in_parts = gradients(processes.ALONE, name, accumulation=3)
    torch.testing.assert_close(in_parts, gradients(processes.ALONE, name), rtol=1e-6, atol=1e-6)


def test_small_batch_has_fewer_parts() -> None:
    p = typed(params.Train, batch_size=128, accumulation=4)
    lengths = {
        n: [part.stop - part.start for part in batches.accumulated(n, n, p)]
        for n in (128, 129, 65, 32, 3)
    }
    assert lengths == {
        128: [32, 32, 32, 32],
        129: [32, 32, 32, 33],
        65: [21, 22, 22],
        32: [32],
        3: [3],
    }


@pytest.mark.parametrize(("n_batch", "batch_size"), [(10, 10), (65, 128), (3, 4), (129, 128)])
def test_processes_have_as_many_parts(n_batch: int, batch_size: int) -> None:
    for n_processes in (2, 3):
        p = typed(params.Train, batch_size=batch_size, accumulation=2, processes=n_processes)
        slices = [part.stop - part.start for part in batches.parts(n_batch, n_processes)]
        shared = [batches.accumulated(n, n_batch, p) for n in slices]
        assert len({len(parts) for parts in shared}) == 1
        assert all(part.stop > part.start for parts in shared for part in parts)


def test_gradient_is_clipped_to_its_norm(splits: tuple[Split, Split], stripes: Samples) -> None:
    """One step of plain gradient descent at rate 1 changes the weights by the gradient."""
    free, loose, tight = (
        Fitted(splits, stripes, **ONE_PLAIN_STEP, clip_norm=clip_norm)
        for clip_norm in (0.0, 1000.0, 0.01)
    )
    gradient = torch.cat([free.change(name).flatten() for name in free.initial])
    clipped = torch.cat([tight.change(name).flatten() for name in free.initial])
    assert gradient.norm() > 0.1
    assert equal(loose.weights(), free.weights())
    torch.testing.assert_close(clipped.norm(), torch.tensor(0.01), rtol=1e-3, atol=0)
    torch.testing.assert_close(clipped, gradient * (0.01 / gradient.norm()), rtol=1e-3, atol=1e-6)


def test_rate_falls_from_block_to_block(splits: tuple[Split, Split], stripes: Samples) -> None:
    """As in Bao et al. 2022: the head's rate, then half of it for each block toward the input."""
    even, layered = (
        Fitted(splits, stripes, **ONE_PLAIN_STEP, layer_decay=decay) for decay in (1.0, 0.5)
    )
    layers = {"head": 1.0, "trunk.7": 0.5, "trunk.3": 0.25, "trunk.0": 0.125}
    for layer, factor in layers.items():
        for kind in ("weight", "bias"):
            name = f"{layer}.{kind}"
            torch.testing.assert_close(layered.change(name), even.change(name) * factor)
    assert layered.steps[0].learning_rate == even.steps[0].learning_rate == 1.0


@pytest.mark.parametrize("keep", ["best", "last"])
def test_average_is_validated_and_kept(
    splits: tuple[Split, Split], stripes: Samples, monkeypatch: pytest.MonkeyPatch, keep: str
) -> None:
    losses = []
    validate = loop.validate

    def recorded(*args: Any) -> tuple[float, float]:
        losses.append(validate(*args))
        return losses[-1]

    monkeypatch.setattr(loop, "validate", recorded)
    plain = Fitted(splits, stripes, precision="float32")
    averaged = Fitted(splits, stripes, precision="float32", ema_decay=0.99, keep=keep)
    assert equal(averaged.weights_by_epoch[0], plain.weights_by_epoch[0])  # trained alike
    assert averaged.epochs[0].train_loss == plain.epochs[0].train_loss
    assert averaged.epochs[0].val_loss != plain.epochs[0].val_loss
    logits = inference.outputs(averaged.model, splits[1]).logits
    assert averaged.kept.val_loss == scores.loss(logits, splits[1].labels)
    assert not equal(averaged.weights(), averaged.weights_by_epoch[averaged.kept.epoch - 1])


def test_head_is_trained_first(splits: tuple[Split, Split], stripes: Samples) -> None:
    fitted = Fitted(splits, stripes, **(FROZEN | {"unfreeze_epoch": 2}), precompute=True)
    before, after = fitted.weights_by_epoch[1:]
    for name, weight in fitted.initial.items():
        assert torch.equal(before[name], weight) == name.startswith("trunk.")
        is_statistic = name.startswith("trunk.") and ("running" in name or "tracked" in name)
        assert torch.equal(after[name], before[name]) == is_statistic
    state = fitted.trainer.state.optimizer.state
    n_steps = [int(state[weight]["step"]) for weight in fitted.model.trainable()]
    assert set(n_steps) == {N_STEPS, 3 * N_STEPS}


def test_overflowing_step_is_skipped(splits: tuple[Split, Split], stripes: Samples) -> None:
    """As in Micikevicius et al. 2018: the scale is halved until no gradient overflows."""
    trainer = Fitted(splits, stripes, epochs=1, precision="float16").trainer
    trainer.state = state = loop.State(
        trainer.state.model, trainer.state.optimizer, trainer.compute, 0.0
    )
    state.scaler.load_state_dict(state.scaler.state_dict() | {"scale": 2.0**24})
    before = copy.deepcopy(state.model.state_dict())
    n_skipped = 0
    for inputs, labels in trainer.batches():
        loss, _ = trainer.step(inputs, labels)
        state.add_step(len(labels), 0.01, loss, torch.tensor(0))  # raises if it is not finite
        if not equal(before, state.model.state_dict()):
            break
        n_skipped += 1
        assert state.scaler.get_scale() == 2.0 ** (24 - n_skipped)
        assert not state.scaler.state_dict()["_growth_tracker"]
    assert 0 < n_skipped < N_STEPS - 1
    assert state.state_dict()["scaler.scale"] == 2.0 ** (24 - n_skipped)
