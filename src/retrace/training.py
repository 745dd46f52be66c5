"""The training loop. It knows data, network, loss and optimizer; whoever wants to know more is told by callback."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

from retrace import batches, evaluation
from retrace.batches import Augment, Part
from retrace.classifier import Classifier
from retrace.errors import DivergedError
from retrace.losses import LossFunction
from retrace.params import Train
from retrace.schedules import Moment
from retrace.seeding import Compute


@dataclass(frozen=True)
class Epoch:
    """What is known when an epoch is over. The training figures are means over the epoch, while the weights moved;
    `train_loss` is what training minimises, `val_loss` the plain cross-entropy.
    """

    epoch: int  # counted from 1
    train_loss: float
    train_accuracy: float
    val_loss: float
    val_accuracy: float


@dataclass(frozen=True)
class Step:
    """What is known after a step. Tensors: reading one waits for the device, so read few."""

    step: int  # of all, counted from 1
    n_images: int
    learning_rate: float
    loss: torch.Tensor
    n_correct: torch.Tensor


def train(
    model: Classifier,
    loss_of: LossFunction,
    optimizer: torch.optim.Optimizer,
    learning_rate: Callable[[Moment], float],
    augment: Augment,
    training: Part,
    validation: Part,
    compute: Compute,
    p: Train,
    *,
    on_step: Callable[[Step], None],
    on_epoch: Callable[[Epoch], None],
) -> Epoch:
    """`model` is trained; returns the epoch whose weights it has: `p.keep` says which, `p.patience` when to stop.

    Raises DivergedError at the end of an epoch whose training or validation loss is not finite.
    """
    step, total = 0, p.epochs * batches.count(training, p.batch_size)
    kept = _Kept(model, best=p.keep == "best")
    while len(kept.epochs) < p.epochs and not (p.patience and kept.waited >= p.patience):
        model.train()
        epoch, val_losses = len(kept.epochs), [scored.val_loss for scored in kept.epochs]
        seen = _Seen(compute.device)
        for inputs, labels in batches.shuffled(training, p.batch_size, augment, seed=p.seed, epoch=epoch):
            rate = learning_rate(Moment((step + 0.5) / total, epoch, val_losses))
            for group in optimizer.param_groups:
                group["lr"] = rate
            with compute.autocast():
                logits = model(inputs)
            loss = loss_of(logits.float(), labels)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()

            step += 1
            n_correct = (logits.detach().argmax(dim=1) == labels).sum()
            seen.add(told := Step(step, len(labels), rate, loss.detach(), n_correct))
            on_step(told)

        scored = _scored(epoch + 1, seen, model, validation)
        kept.take(scored)
        on_epoch(scored)
    return kept.restored()


class _Seen:
    """Loss and right answers of an epoch's steps, summed on the device, which nothing waits for until the end."""

    def __init__(self, device: torch.device) -> None:
        self.n_images = 0
        self.loss = torch.zeros((), device=device)
        self.n_correct = torch.zeros((), dtype=torch.int64, device=device)

    def add(self, step: Step) -> None:
        self.n_images += step.n_images
        self.loss += step.loss * step.n_images
        self.n_correct += step.n_correct


class _Kept:
    """The epochs so far, and the weights to end with: the best epoch's, or the last's."""

    def __init__(self, model: Classifier, *, best: bool) -> None:
        self.model, self.best = model, best
        self.epochs: list[Epoch] = []
        self.lowest: Epoch | None = None
        self.weights: dict[str, torch.Tensor] = {}

    @property
    def waited(self) -> int:
        """Epochs since the validation loss was lower than ever before."""
        return len(self.epochs) - self.lowest.epoch if self.lowest else 0

    def take(self, scored: Epoch) -> None:
        self.epochs.append(scored)
        if self.lowest is None or scored.val_loss < self.lowest.val_loss:
            self.lowest = scored
            if self.best:
                self.weights = {name: tensor.clone() for name, tensor in self.model.state_dict().items()}

    def restored(self) -> Epoch:
        if not self.best or self.lowest is None:
            return self.epochs[-1]
        self.model.load_state_dict(self.weights)
        return self.lowest


def _scored(epoch: int, seen: _Seen, model: Classifier, validation: Part) -> Epoch:
    train_loss, train_accuracy = seen.loss.item() / seen.n_images, seen.n_correct.item() / seen.n_images
    logits = evaluation.outputs(model, validation).logits
    val_loss = evaluation.loss(logits, validation.labels)
    if not math.isfinite(train_loss) or not math.isfinite(val_loss):
        raise DivergedError(
            f"epoch {epoch}: the training loss is {train_loss}, the validation loss {val_loss}; lower lr"
        )
    return Epoch(epoch, train_loss, train_accuracy, val_loss, evaluation.accuracy(logits, validation.labels))
