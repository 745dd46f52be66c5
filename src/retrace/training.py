"""The training loop. It knows data, network, loss and optimizer; whoever wants to know more is told by callback."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

from retrace import batches, evaluation
from retrace.batches import Part
from retrace.classifier import Classifier
from retrace.errors import DivergedError
from retrace.losses import LossFunction
from retrace.params import Train
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
    loss: torch.Tensor
    n_correct: torch.Tensor


def train(
    model: Classifier,
    loss_of: LossFunction,
    optimizer: torch.optim.Optimizer,
    learning_rate: Callable[[float], float],
    training: Part,
    validation: Part,
    compute: Compute,
    p: Train,
    *,
    on_step: Callable[[Step], None],
    on_epoch: Callable[[Epoch], None],
) -> None:
    """`model` is trained. `learning_rate` maps the fraction of training that is over, 0..1 (in the middle
    of a step), to the rate of that step.

    Raises DivergedError at the end of an epoch whose training or validation loss is not finite.
    """
    step, total = 0, p.epochs * batches.count(training, p.batch_size)
    for epoch in range(p.epochs):
        model.train()
        summed_loss = torch.zeros((), device=compute.device)
        summed_correct = torch.zeros((), dtype=torch.int64, device=compute.device)
        for images, labels in batches.shuffled(training, p.batch_size, p.seed, epoch):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate((step + 0.5) / total)
            with compute.autocast():
                logits = model(images)
            loss = loss_of(logits.float(), labels)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()

            step += 1
            n_correct = (logits.detach().argmax(dim=1) == labels).sum()
            summed_loss += loss.detach() * len(labels)
            summed_correct += n_correct
            on_step(Step(step, len(labels), loss.detach(), n_correct))

        n_images = len(training)
        on_epoch(_scored(epoch + 1, summed_loss.item() / n_images, summed_correct.item() / n_images, model, validation))


def _scored(epoch: int, train_loss: float, train_accuracy: float, model: Classifier, validation: Part) -> Epoch:
    logits = evaluation.outputs(model, validation).logits
    val_loss = evaluation.loss(logits, validation.labels)
    if not math.isfinite(train_loss) or not math.isfinite(val_loss):
        raise DivergedError(
            f"epoch {epoch}: the training loss is {train_loss}, the validation loss {val_loss}; lower lr"
        )
    return Epoch(epoch, train_loss, train_accuracy, val_loss, evaluation.accuracy(logits, validation.labels))
