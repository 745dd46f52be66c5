"""Batches, losses, optimizers, schedules, and the loop that puts them together."""

import copy
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from conftest import typed
from sklearn.utils.class_weight import compute_class_weight
from torch import nn, optim

from lab import params
from lab.data import batches, split, storage
from lab.data.samples import Samples, Splits
from lab.errors import DivergedError
from lab.evaluation import inference
from lab.models import classifier
from lab.models.networks import softmax_scratch
from lab.training import device, loop, losses
from lab.training.augmentations import AUGMENTATIONS, none
from lab.training.losses import LOSSES, cross_entropy, cross_entropy_scratch, focal, mse
from lab.training.optimizers import OPTIMIZERS, sgd
from lab.training.schedules import SCHEDULES, Moment, cosine, multistep, one_cycle, plateau
from lab.training.state import Epoch, Step
from retrace.errors import ParamsError
from retrace.pipeline import params_file

TABLES = {
    "losses": LOSSES,
    "optimizers": OPTIMIZERS,
    "schedules": SCHEDULES,
    "augmentations": AUGMENTATIONS,
}
EVEN = torch.tensor([10, 10, 10])  # samples of each class


@pytest.mark.parametrize("kind", TABLES)
def test_every_entry_has_settings_and_they_fit(values: params_file.Values, kind: str) -> None:
    table: dict[str, Callable[..., object]] = dict(TABLES[kind])
    assert set(params.bind_all(table, values[kind], kind)) == set(table)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_goes_down_a_bowl(values: params_file.Values, name: str) -> None:
    weight = nn.Parameter(torch.tensor([3.0, -2.0]))
    optimizer = OPTIMIZERS[name]([weight], **values["optimizers"][name])
    for group in optimizer.param_groups:
        group["lr"] = 0.05
    for _ in range(300):
        (weight**2).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    assert weight.detach().norm() < 0.1


@pytest.mark.parametrize("name", SCHEDULES)
def test_every_schedule_stays_between_zero_and_one_and_reaches_one(
    values: params_file.Values, name: str
) -> None:
    settings, moments = (
        values["schedules"][name],
        [Moment(i / 1000, i // 100, [1.0] * (i // 100)) for i in range(1000)],
    )
    factors = [SCHEDULES[name](at, **settings) for at in moments]
    assert min(factors) >= 0
    assert max(factors) == pytest.approx(1)


def test_one_cycle_rises_to_its_peak_and_ends_near_zero() -> None:
    moments = [Moment(done, 0, []) for done in (0, 0.125, 0.25, 1)]
    assert [one_cycle(at, warmup_fraction=0.25) for at in moments] == [0, 0.5, 1, 0]


def test_cosine_falls_from_one_to_zero() -> None:
    assert [cosine(Moment(done, 0, [])) for done in (0, 0.5, 1)] == pytest.approx([1, 0.5, 0])


@pytest.mark.parametrize("milestones", [[8, 16, 24, 32], [1], []])
def test_multistep_is_torch_s(milestones: list[int]) -> None:
    optimizer = optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    theirs = optim.lr_scheduler.MultiStepLR(optimizer, milestones, gamma=0.5)
    for epoch in range(40):
        assert (
            multistep(Moment(0.0, epoch, []), milestones=milestones, gamma=0.5)
            == theirs.get_last_lr()[0]
        )
        optimizer.step()
        theirs.step()


@pytest.mark.parametrize("seed", range(5))
def test_plateau_is_torch_s_with_its_patience_counted_from_one(seed: int) -> None:
    losses = np.random.default_rng(seed).normal(size=60).tolist()
    optimizer = optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    theirs = optim.lr_scheduler.ReduceLROnPlateau(
        optimizer, factor=0.5, patience=2, threshold=0.0, eps=0.0
    )
    for epoch, loss in enumerate(losses):
        assert (
            plateau(Moment(0.0, epoch, losses[:epoch]), patience=3, factor=0.5)
            == theirs.get_last_lr()[0]
        )
        theirs.step(loss)


def test_cross_entropy_is_the_negative_log_likelihood() -> None:
    logits, labels = torch.tensor([[0.0, math.log(3)]]), torch.tensor([0])
    for smoothing, expected in ((0.0, math.log(4)), (0.2, math.log(4) - 0.1 * math.log(3))):
        loss = cross_entropy(EVEN[:2], label_smoothing=smoothing, class_weights="none")(
            logits, labels
        )
        assert loss.item() == pytest.approx(expected)


LOGITS = torch.randn(30, 3, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(30) % 3


@pytest.mark.parametrize("smoothing", [0.1, 0.9])
def test_cross_entropy_with_weights_and_smoothing_is_torch_s_where_a_gpu_would_wait_for_that(
    smoothing: float,
) -> None:
    weights = torch.tensor([0.5, 1.0, 4.0])
    for labels in LABELS, LABELS[:1].expand(30):
        expected = nn.functional.cross_entropy(LOGITS, labels, weights, label_smoothing=smoothing)
        assert losses._smoothed(LOGITS, labels, weights, smoothing).item() == pytest.approx(
            expected.item()
        )


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("n", [1, 30])
def test_every_loss_and_its_gradient_are_those_of_logits_that_lie_class_by_class(
    values: params_file.Values, name: str, n: int
) -> None:
    settings = values["losses"][name] | (
        {"label_smoothing": 0.1, "class_weights": [1.0, 2.0, 3.0]} if n > 1 else {}
    )
    loss = LOSSES[name](EVEN, **(settings if name == "cross_entropy" else values["losses"][name]))
    found = []
    for columns in (False, True):
        logits = (LOGITS[:n].T.contiguous().T if columns else LOGITS[:n].clone()).requires_grad_()
        (value := loss(logits, LABELS[:n])).backward()
        found.append((value.detach(), logits.grad))
    torch.testing.assert_close(*found)


@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_is_lower_where_the_true_class_is_surer(
    values: params_file.Values, name: str
) -> None:
    loss = LOSSES[name](EVEN, **values["losses"][name])
    right = F.one_hot(LABELS, 3).float()
    assert loss(right, LABELS) < loss(LOGITS, LABELS)


def test_focal_loss_without_focus_and_the_loss_from_scratch_are_cross_entropy() -> None:
    plain = F.cross_entropy(LOGITS, LABELS)
    torch.testing.assert_close(focal(EVEN, gamma=0.0, alpha="none")(LOGITS, LABELS), plain)
    torch.testing.assert_close(cross_entropy_scratch(EVEN)(LOGITS, LABELS), plain)
    torch.testing.assert_close(cross_entropy_scratch(EVEN)(LOGITS + 500, LABELS), plain)


def test_focal_loss_weighs_each_sample_by_how_wrong_it_is_and_by_its_class() -> None:
    logits, labels = torch.tensor([[math.log(3), 0.0], [0.0, 0.0]]), torch.tensor([0, 1])
    expected = (2.0 * 0.25**2 * -math.log(0.75) + 5.0 * 0.5**2 * -math.log(0.5)) / 2
    assert focal(EVEN[:2], gamma=2.0, alpha=[2.0, 5.0])(logits, labels).item() == pytest.approx(
        expected
    )


def test_focal_loss_has_a_gradient_where_a_sample_is_certain() -> None:
    logits = torch.tensor([[200.0, 0.0]], requires_grad=True)
    focal(EVEN[:2], gamma=0.5, alpha="none")(logits, torch.tensor([0])).backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


def test_balanced_weights_are_scikit_learn_s() -> None:
    labels = torch.tensor([0] * 6 + [1] * 3 + [2])
    logits = torch.randn(10, 3, generator=torch.Generator().manual_seed(1))
    theirs = compute_class_weight("balanced", classes=np.arange(3), y=labels.numpy())
    weights = torch.tensor(theirs, dtype=torch.float32)
    loss = cross_entropy(labels.bincount(), label_smoothing=0.0, class_weights="balanced")
    torch.testing.assert_close(loss(logits, labels), F.cross_entropy(logits, labels, weights))


def test_mse_is_the_mean_square_from_one_hot() -> None:
    assert mse(EVEN[:2])(torch.tensor([[0.5, -1.0]]), torch.tensor([0])).item() == pytest.approx(
        (0.25 + 1) / 2
    )


def test_a_weight_for_each_class_is_asked_for() -> None:
    with pytest.raises(
        ParamsError, match="losses.focal.alpha has 2 numbers; .* each of the 3 classes"
    ):
        focal(EVEN, gamma=2.0, alpha=[1.0, 1.0])


def test_softmax_regression_from_scratch_is_the_library_s(values: params_file.Values) -> None:
    torch.manual_seed(0)
    images, labels = torch.rand(512, 1, 28, 28), torch.randint(10, (512,))
    ours = nn.Sequential(
        *softmax_scratch.build((1, 28, 28), 10, **values["models"]["softmax_scratch"])
    )
    linear = nn.Linear(784, 10)
    linear.load_state_dict(
        {"weight": ours.state_dict()["1.weight"], "bias": ours.state_dict()["1.bias"]}
    )
    theirs = nn.Sequential(nn.Flatten(), linear)
    pairs = [
        (
            ours,
            cross_entropy_scratch(torch.full((10,), 51)),
            OPTIMIZERS["sgd_scratch"](ours.parameters()),
        ),
        (theirs, nn.CrossEntropyLoss(), optim.SGD(theirs.parameters())),
    ]
    for model, loss, optimizer in pairs:
        optimizer.param_groups[0]["lr"] = 0.1
        for _ in range(10):
            for x, y in zip(images.split(256), labels.split(256), strict=True):
                loss(model(x), y).backward()
                optimizer.step()
                optimizer.zero_grad()
    torch.testing.assert_close(
        ours.state_dict()["1.weight"], linear.weight.detach(), rtol=1e-5, atol=1e-5
    )
    torch.testing.assert_close(ours(images), theirs(images), rtol=1e-5, atol=1e-5)


@pytest.fixture
def parts(stripes: Samples) -> tuple[batches.Split, batches.Split]:
    train, validation, _ = split.split(
        Splits(stripes), typed(params.Preprocess, validation_fraction=0.2)
    )
    cpu = torch.device("cpu")
    return batches.on_device(train, cpu), batches.on_device(validation, cpu)


def test_a_shuffled_epoch_has_every_sample_once_and_its_order_is_seeded(
    parts: tuple[batches.Split, batches.Split],
) -> None:
    part = batches.Split(parts[0].inputs, torch.arange(len(parts[0])))

    def order(seed: int, epoch: int) -> list[int]:
        epochs = batches.shuffled(part, 50, none, torch.Generator(), seed=seed, epoch=epoch)
        return [label for _, labels in epochs for label in labels.tolist()]

    assert sorted(order(0, 0)) == list(range(len(part)))
    assert order(0, 0) == order(0, 0)
    assert len({tuple(order(*which)) for which in [(0, 0), (0, 1), (1, 0), (1, 1)]}) == 4
    assert (
        batches.count(part, 50)
        == len(list(batches.shuffled(part, 50, none, torch.Generator(), seed=0, epoch=0)))
        == 4
    )


def test_one_batch_of_all_samples_is_the_part_itself_which_augmentations_do_not_change(
    parts: tuple[batches.Split, batches.Split],
) -> None:
    n = len(parts[0])
    part = batches.Split(torch.arange(2.0 * n).view(n, 2), parts[0].labels)
    laid_out = batches.laid_out(part, n)
    assert laid_out.inputs.T.is_contiguous()
    for epoch in range(2):
        for augment in (None, lambda inputs, _: inputs.zero_()):
            ((inputs, labels),) = batches.shuffled(
                laid_out, n, augment, torch.Generator(), seed=0, epoch=epoch
            )
            assert (inputs is laid_out.inputs) is (augment is None)
            assert torch.equal(labels, part.labels)
        assert torch.equal(laid_out.inputs, part.inputs)
    assert batches.laid_out(part, n - 1) is part


@pytest.mark.parametrize(
    ("n", "size", "sizes"), [(7, 3, [3, 4]), (8, 3, [3, 3, 2]), (6, 3, [3, 3]), (1, 3, [1])]
)
def test_no_sample_is_left_alone_in_a_batch(n: int, size: int, sizes: list[int]) -> None:
    part = batches.Split(torch.zeros(n, 2), torch.zeros(n, dtype=torch.int64))
    assert [
        len(labels)
        for _, labels in batches.shuffled(part, size, none, torch.Generator(), seed=0, epoch=0)
    ] == sizes
    assert batches.count(part, size) == len(sizes)


class Fitted:
    """A network trained on the stripes, and what the callbacks were told."""

    def __init__(
        self,
        parts: tuple[batches.Split, batches.Split],
        stripes: Samples,
        *,
        once: bool = False,
        **changed: object,
    ) -> None:
        small = {
            "epochs": 3,
            "batch_size": 16,
            "threads": 1,
            "lr": 0.01,
            "device": "cpu",
            "keep": "last",
        }
        p = typed(params.Train, **(small | changed))
        compute = device.configure(p, p.precision)
        torch.manual_seed(p.seed)
        card = classifier.card_of(p.model, stripes, storage.scale(stripes))
        self.model = classifier.build(card)
        self.initial = copy.deepcopy(self.model.state_dict())
        if p.freeze_trunk:
            self.model.freeze_trunk()
        trainer = loop.create(p, compute, self.model, *parts, n_classes=3)
        if once:
            trainer.precompute_features()
        self.epochs: list[Epoch] = []
        self.steps: list[Step] = []
        self.moments: list[Moment] = []
        learning_rate = trainer.learning_rate

        def watched(moment: Moment) -> float:
            self.moments.append(moment._replace(val_losses=list(moment.val_losses)))
            return learning_rate(moment)

        trainer.learning_rate = watched
        self.kept = trainer.train(self.steps.append, self.epochs.append)


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_training_learns_and_tells_what_it_did(
    parts: tuple[batches.Split, batches.Split], stripes: Samples, precision: str
) -> None:
    fitted = Fitted(parts, stripes, precision=precision)
    assert fitted.epochs[-1].val_accuracy > 0.9 > fitted.epochs[0].train_accuracy
    assert [epoch.epoch for epoch in fitted.epochs] == [1, 2, 3]
    assert [step.step for step in fitted.steps] == list(range(1, 37))
    assert sum(step.n_images for step in fitted.steps) == 3 * len(parts[0])
    assert [at.done for at in fitted.moments] == [(step + 0.5) / 36 for step in range(36)]
    assert [at.epoch for at in fitted.moments] == [step // 12 for step in range(36)]
    assert list(fitted.moments[-1].val_losses) == [epoch.val_loss for epoch in fitted.epochs[:2]]
    assert [step.learning_rate for step in fitted.steps][-1] < 0.001


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_equal_seeds_give_equal_bits_and_others_do_not(
    parts: tuple[batches.Split, batches.Split], stripes: Samples, optimizer: str
) -> None:
    first, second, other = (
        Fitted(parts, stripes, optimizer=optimizer, seed=seed) for seed in (0, 0, 1)
    )
    for name, weight in first.model.state_dict().items():
        assert torch.equal(weight, second.model.state_dict()[name])
        assert not torch.equal(weight, other.model.state_dict()[name])
        assert not torch.equal(weight, first.initial[name])
    assert first.epochs == second.epochs


@pytest.mark.usefixtures("folder")
def test_the_validation_part_is_watched_and_changes_no_bit(
    parts: tuple[batches.Split, batches.Split], stripes: Samples
) -> None:
    poisoned = batches.Split(parts[1].inputs.flip(0), parts[1].labels)
    first, second = Fitted(parts, stripes), Fitted((parts[0], poisoned), stripes)
    assert first.epochs != second.epochs
    for name, weight in first.model.state_dict().items():
        assert torch.equal(weight, second.model.state_dict()[name])


@pytest.mark.usefixtures("folder")
def test_the_best_epoch_s_weights_are_kept_or_the_last_s(
    parts: tuple[batches.Split, batches.Split], stripes: Samples
) -> None:
    rough = {"lr": 0.2, "schedule": "constant", "epochs": 6}
    best, last = (Fitted(parts, stripes, keep=keep, **rough) for keep in ("best", "last"))
    assert best.epochs == last.epochs
    lowest = min(best.epochs, key=lambda epoch: epoch.val_loss)
    assert best.kept == lowest != last.kept == last.epochs[-1]
    for fitted in (best, last):
        logits = inference.outputs(fitted.model, parts[1]).logits
        assert inference.loss(logits, parts[1].labels) == fitted.kept.val_loss


@pytest.mark.usefixtures("folder")
def test_training_stops_when_patience_ends(
    parts: tuple[batches.Split, batches.Split], stripes: Samples
) -> None:
    rough = {"lr": 0.2, "schedule": "constant", "epochs": 50}
    losses = [epoch.val_loss for epoch in Fitted(parts, stripes, patience=2, **rough).epochs]
    assert len(losses) < 50
    assert min(losses[-2:]) >= min(losses[:-2]) == losses[-3]


@pytest.mark.usefixtures("folder")
def test_a_frozen_trunk_keeps_every_weight_and_statistic(
    parts: tuple[batches.Split, batches.Split], stripes: Samples
) -> None:
    fitted = Fitted(parts, stripes, model="cifar_v3", freeze_trunk=True)
    for name, weight in fitted.model.state_dict().items():
        assert torch.equal(weight, fitted.initial[name]) == name.startswith("trunk.")


@pytest.mark.usefixtures("folder")
def test_a_head_learns_from_features_made_once_what_it_learns_behind_its_trunk(
    parts: tuple[batches.Split, batches.Split], stripes: Samples
) -> None:
    behind, alone = (
        Fitted(
            parts,
            stripes,
            model="cifar_v3",
            freeze_trunk=True,
            precision="float32",
            augmentation="none",
            once=once,
        )
        for once in (False, True)
    )
    torch.testing.assert_close(alone.model.state_dict(), behind.model.state_dict())
    assert not torch.equal(alone.model.state_dict()["head.weight"], alone.initial["head.weight"])
    assert alone.epochs[-1].val_loss == pytest.approx(behind.epochs[-1].val_loss, rel=1e-4)


@pytest.mark.usefixtures("folder")
def test_a_loss_that_is_not_finite_ends_training(
    parts: tuple[batches.Split, batches.Split], stripes: Samples
) -> None:
    with pytest.raises(
        DivergedError,
        match=r"step \d: the training loss is nan, after [\d.e+]+ in the step before; lower lr",
    ):
        Fitted(parts, stripes, optimizer="sgd", lr=1000.0)


@pytest.mark.usefixtures("folder")
def test_a_training_of_one_step_changes_the_weights(
    parts: tuple[batches.Split, batches.Split], stripes: Samples
) -> None:
    fitted = Fitted(parts, stripes, epochs=1, batch_size=1000)
    assert len(fitted.steps) == 1
    assert not torch.equal(fitted.model.state_dict()["head.weight"], fitted.initial["head.weight"])


def test_sgd_without_momentum_needs_no_nesterov() -> None:
    assert sgd([nn.Parameter(torch.zeros(1))], momentum=0.0, nesterov=True, weight_decay=0.0)


def test_metrics_are_functions_of_logits_and_labels() -> None:
    logits = torch.tensor([[2.0, 0.0], [0.0, 1.0], [3.0, 0.0], [0.0, 0.5]])
    labels = torch.tensor([0, 1, 1, 1])
    assert (
        inference.accuracy(logits, labels)
        == inference.accuracy(logits.T.contiguous().T, labels)
        == 0.75
    )
    chances = torch.softmax(logits, dim=1)[torch.arange(4), labels]
    assert inference.loss(logits, labels) == pytest.approx(-chances.log().mean().item())
    first, second = inference.by_class(logits.argmax(dim=1).numpy(), labels.numpy(), ["a", "b"])
    assert (first.precision, first.recall, first.n_samples) == (0.5, 1.0, 1)
    assert (second.precision, second.recall, second.n_samples) == (1.0, pytest.approx(2 / 3), 3)
    assert inference.averaged([first, second])["test_precision"] == 0.75


def test_a_class_never_there_and_never_said_scores_zero() -> None:
    scores = inference.by_class(np.array([0, 0]), np.array([0, 0]), ["a", "b"])
    assert (scores[1].f1, scores[1].n_samples) == (0, 0)


def test_outputs_are_in_the_part_s_order_whatever_the_batch(
    parts: tuple[batches.Split, batches.Split],
    stripes: Samples,
    monkeypatch: pytest.MonkeyPatch,
    values: params_file.Values,
) -> None:
    choice = params.Choice(name="softmax", settings={})
    model = classifier.build(classifier.card_of(choice, stripes, storage.scale(stripes)))
    whole = inference.outputs(model, parts[0])
    monkeypatch.setitem(inference.BATCH, "cpu", 7)
    pieces = inference.outputs(model, parts[0])
    torch.testing.assert_close(whole.logits, pieces.logits)
    torch.testing.assert_close(whole.logits, model.head(whole.features))


def hardware(**changed: object) -> params.Hardware:
    return params.Hardware.model_validate({"device": "auto", "threads": 1} | changed)


def test_the_device_is_the_best_there_is_and_settings_overrule_it() -> None:
    assert device.configure(hardware(), "auto").device.type == (
        "cuda" if torch.cuda.is_available() else "cpu"
    )
    assert device.configure(hardware(device="cpu"), "bfloat16").precision is torch.bfloat16
    assert str(device.configure(hardware(device="cpu"), "float32")) == "cpu, 1 thread, float32"
    assert torch.are_deterministic_algorithms_enabled()


def test_memory_that_runs_out_names_the_batch_size() -> None:
    said = "batch_size is 512, and memory has no room for 4000000000000000 bytes; lower batch_size"
    with pytest.raises(ParamsError, match=said), device.enough_memory(512):
        torch.empty(10**15)
    with pytest.raises(RuntimeError, match="tensor size"), device.enough_memory(512):
        torch.matmul(torch.empty(2), torch.empty(3))


def test_a_gpu_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ParamsError, match="device is 'cuda', but torch sees no GPU"):
        device.configure(hardware(device="cuda"), "auto")
