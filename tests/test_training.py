"""Batches, losses, optimizers, schedules, and the loop that puts them together."""

import copy
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from retrace import batches, classifier, evaluation, params, seeding, splits, training
from retrace.errors import DivergedError, ParamsError
from retrace.losses import LOSSES, cross_entropy
from retrace.optimizers import OPTIMIZERS, sgd
from retrace.samples import Samples
from retrace.schedules import SCHEDULES, one_cycle
from retrace.training import Epoch, Step

TABLES = {"losses": LOSSES, "optimizers": OPTIMIZERS, "schedules": SCHEDULES}


@pytest.mark.parametrize("kind", TABLES)
def test_every_entry_has_settings_and_they_fit(values: params.Values, kind: str) -> None:
    table: dict[str, Callable[..., object]] = dict(TABLES[kind])
    assert set(params.bind_all(table, values[kind], kind)) == set(table)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_goes_down_a_bowl(values: params.Values, name: str) -> None:
    weight = nn.Parameter(torch.tensor([3.0, -2.0]))
    optimizer = OPTIMIZERS[name]([weight], **values["optimizers"][name])
    for group in optimizer.param_groups:
        group["lr"] = 0.05
    for _ in range(200):
        (weight**2).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    assert weight.detach().norm() < 0.1


@pytest.mark.parametrize("name", SCHEDULES)
def test_every_schedule_stays_between_zero_and_one_and_reaches_one(values: params.Values, name: str) -> None:
    factors = [SCHEDULES[name](step / 1000, **values["schedules"][name]) for step in range(1000)]
    assert min(factors) >= 0
    assert max(factors) == pytest.approx(1)


def test_one_cycle_rises_to_its_peak_and_ends_near_zero() -> None:
    assert [one_cycle(done, warmup_fraction=0.25) for done in (0, 0.125, 0.25, 1)] == [0, 0.5, 1, 0]


def test_cross_entropy_is_the_negative_log_likelihood() -> None:
    logits, labels = torch.tensor([[0.0, math.log(3)]]), torch.tensor([0])
    assert cross_entropy(label_smoothing=0.0)(logits, labels).item() == pytest.approx(math.log(4))
    smoothed = math.log(4) - 0.1 * math.log(3)
    assert cross_entropy(label_smoothing=0.2)(logits, labels).item() == pytest.approx(smoothed)


@pytest.fixture
def parts(stripes: Samples) -> tuple[batches.Part, batches.Part]:
    train, validation, _ = splits.deal(stripes, None, 0.2, 0.2, seed=0)
    cpu = torch.device("cpu")
    return batches.on_device(train, cpu), batches.on_device(validation, cpu)


def test_a_shuffled_epoch_has_every_sample_once_and_its_order_is_seeded(
    parts: tuple[batches.Part, batches.Part],
) -> None:
    part = batches.Part(parts[0].images, torch.arange(len(parts[0])))

    def order(seed: int, epoch: int) -> list[int]:
        return [label for _, labels in batches.shuffled(part, 50, seed, epoch) for label in labels.tolist()]

    assert sorted(order(0, 0)) == list(range(len(part)))
    assert order(0, 0) == order(0, 0)
    assert len({tuple(order(*which)) for which in [(0, 0), (0, 1), (1, 0), (1, 1)]}) == 4
    assert batches.count(part, 50) == len(list(batches.shuffled(part, 50, 0, 0))) == 4


class Fitted:
    """A network trained on the stripes, and what the callbacks were told."""

    def __init__(self, parts: tuple[batches.Part, batches.Part], stripes: Samples, **changed: object) -> None:
        values = params.read() | {"epochs": 3, "batch_size": 16, "threads": 1, "lr": 0.01, "device": "cpu"} | changed
        p = params.Train.model_construct(**{k: getattr(params.checked(values), k) for k in params.Train.model_fields})
        compute = seeding.settle(p, p.precision)
        torch.manual_seed(p.seed)
        card = classifier.card_of(p.model, stripes, splits.scale(stripes))
        self.model = classifier.build(card)
        self.initial = copy.deepcopy(self.model.state_dict())
        self.epochs: list[Epoch] = []
        self.steps: list[Step] = []
        self.rates: list[float] = []

        def rate(done: float) -> float:
            self.rates.append(done)
            return p.lr * one_cycle(done, warmup_fraction=0.3)

        training.train(
            self.model,
            cross_entropy(label_smoothing=0.0),
            params.bind(OPTIMIZERS, p.optimizer, "optimizers")(self.model.parameters()),
            rate,
            *parts,
            compute,
            p,
            on_step=self.steps.append,
            on_epoch=self.epochs.append,
        )


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_training_learns_and_tells_what_it_did(
    parts: tuple[batches.Part, batches.Part], stripes: Samples, precision: str
) -> None:
    fitted = Fitted(parts, stripes, precision=precision)
    assert fitted.epochs[-1].val_accuracy > 0.9 > fitted.epochs[0].train_accuracy
    assert [epoch.epoch for epoch in fitted.epochs] == [1, 2, 3]
    assert [step.step for step in fitted.steps] == list(range(1, 37))
    assert sum(step.n_images for step in fitted.steps) == 3 * len(parts[0])
    assert fitted.rates == [(step + 0.5) / 36 for step in range(36)]


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_equal_seeds_give_equal_bits_and_others_do_not(
    parts: tuple[batches.Part, batches.Part], stripes: Samples, optimizer: str
) -> None:
    first, second, other = (Fitted(parts, stripes, optimizer=optimizer, seed=seed) for seed in (0, 0, 1))
    for name, weight in first.model.state_dict().items():
        assert torch.equal(weight, second.model.state_dict()[name])
        assert not torch.equal(weight, other.model.state_dict()[name])
        assert not torch.equal(weight, first.initial[name])
    assert first.epochs == second.epochs


@pytest.mark.usefixtures("folder")
def test_the_validation_part_is_watched_and_changes_no_bit(
    parts: tuple[batches.Part, batches.Part], stripes: Samples
) -> None:
    poisoned = batches.Part(parts[1].images.flip(0), parts[1].labels)
    first, second = Fitted(parts, stripes), Fitted((parts[0], poisoned), stripes)
    assert first.epochs != second.epochs
    for name, weight in first.model.state_dict().items():
        assert torch.equal(weight, second.model.state_dict()[name])


@pytest.mark.usefixtures("folder")
def test_a_loss_that_is_not_finite_ends_training(parts: tuple[batches.Part, batches.Part], stripes: Samples) -> None:
    with pytest.raises(DivergedError, match=r"epoch 1: .*lower lr"):
        Fitted(parts, stripes, optimizer="sgd", lr=1000.0)


@pytest.mark.usefixtures("folder")
def test_a_training_of_one_step_changes_the_weights(parts: tuple[batches.Part, batches.Part], stripes: Samples) -> None:
    fitted = Fitted(parts, stripes, epochs=1, batch_size=1000)
    assert len(fitted.steps) == 1
    assert not torch.equal(fitted.model.state_dict()["head.weight"], fitted.initial["head.weight"])


def test_sgd_without_momentum_needs_no_nesterov() -> None:
    assert sgd([nn.Parameter(torch.zeros(1))], momentum=0.0, nesterov=True, weight_decay=0.0)


def test_metrics_are_functions_of_logits_and_labels() -> None:
    logits = torch.tensor([[2.0, 0.0], [0.0, 1.0], [3.0, 0.0], [0.0, 0.5]])
    labels = torch.tensor([0, 1, 1, 1])
    assert evaluation.accuracy(logits, labels) == 0.75
    chances = torch.softmax(logits, dim=1)[torch.arange(4), labels]
    assert evaluation.loss(logits, labels) == pytest.approx(-chances.log().mean().item())
    first, second = evaluation.by_class(logits.argmax(dim=1).numpy(), labels.numpy(), ["a", "b"])
    assert (first.precision, first.recall, first.n_samples) == (0.5, 1.0, 1)
    assert (second.precision, second.recall, second.n_samples) == (1.0, pytest.approx(2 / 3), 3)
    assert evaluation.averaged([first, second])["test_precision"] == 0.75


def test_a_class_never_there_and_never_said_scores_zero() -> None:
    scores = evaluation.by_class(np.array([0, 0]), np.array([0, 0]), ["a", "b"])
    assert (scores[1].f1, scores[1].n_samples) == (0, 0)


def test_outputs_are_in_the_part_s_order_whatever_the_batch(
    parts: tuple[batches.Part, batches.Part], stripes: Samples, monkeypatch: pytest.MonkeyPatch, values: params.Values
) -> None:
    choice = params.Choice(name="softmax", settings={})
    model = classifier.build(classifier.card_of(choice, stripes, splits.scale(stripes)))
    whole = evaluation.outputs(model, parts[0])
    monkeypatch.setattr(evaluation, "BATCH", 7)
    pieces = evaluation.outputs(model, parts[0])
    torch.testing.assert_close(whole.logits, pieces.logits)
    torch.testing.assert_close(whole.logits, model.head(whole.features))


def hardware(**changed: object) -> params.Hardware:
    return params.Hardware.model_validate({"device": "auto", "threads": 1} | changed)


def test_the_device_is_the_best_there_is_and_settings_overrule_it() -> None:
    assert seeding.settle(hardware(), "auto").device.type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert seeding.settle(hardware(device="cpu"), "bfloat16").precision is torch.bfloat16
    assert str(seeding.settle(hardware(device="cpu"), "float32")) == "cpu, 1 threads, float32"
    assert torch.are_deterministic_algorithms_enabled()


def test_a_gpu_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ParamsError, match="device is 'cuda', but torch sees no GPU"):
        seeding.settle(hardware(device="cuda"), "auto")
