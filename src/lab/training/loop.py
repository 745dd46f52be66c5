"""The training loop. It reports progress through callbacks, and does not depend on them."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import reduce

import torch
from torch import Tensor, nn

from lab import params
from lab.data import batches
from lab.data.batches import Augment, Split
from lab.evaluation import inference, scores
from lab.models.classifier import Classifier
from lab.params import Train
from lab.shapes import BatchLabels, Inputs, Loss, Targets
from lab.training import augmentations, cuda_graph, losses, optimizers, processes
from lab.training.device import Compute
from lab.training.losses import LOSSES, LossFunction
from lab.training.mixing import Mixing
from lab.training.optimizers import OPTIMIZERS
from lab.training.processes import Group
from lab.training.schedules import SCHEDULES, Moment
from lab.training.state import Epoch, State, Step
from retrace import errors


@dataclass
class Trainer:
    """Everything one training needs. `train` is the loop, `step` is what it repeats."""

    state: State  # the model, its optimizer and the epochs so far
    train_split: Split
    validation_split: Split
    augment: Augment | None
    loss: LossFunction
    learning_rate: Callable[[Moment], float]
    compute: Compute
    p: Train
    group: Group = processes.ALONE
    mixing: Mixing | None = None

    def train(self, on_step: Callable[[Step], None], on_epoch: Callable[[Epoch], None]) -> Epoch:
        """Train until the last epoch or until early stopping. Return the epoch that is kept.

        A resumed state continues at its own step. Signals wait for the end of a step, so that the
        state is consistent whenever this returns or raises; validation is interrupted at once.
        Raises DivergedError at the latest one step after a loss that is not finite.
        """
        state = self.state
        self.train_split = batches.laid_out(self.train_split, self.p.batch_size)
        step = self.step
        if self.compute.is_gpu and not state.scaler.is_enabled():
            step = cuda_graph.CapturedStep(step, state)
        while not state.is_over(self.p):
            if self.p.unfreeze_epoch and len(state.epochs) >= self.p.unfreeze_epoch:
                state.model.unfreeze_backbone()
            state.model.train()
            with errors.Deferred() as signals:
                for inputs, labels in self.batches():
                    learning_rate = self.set_learning_rate()
                    loss, n_correct = step(inputs, labels)
                    on_step(state.add_step(len(labels), learning_rate, loss, n_correct))
                    self.group.answer(signals)

            val_loss, val_accuracy = validate(state.validated, self.validation_split, self.group)
            with errors.Deferred():
                on_epoch(state.add_epoch(val_loss, val_accuracy, self.p))
        return state.finish(self.p)

    def step(self, inputs: Inputs, labels: Targets) -> tuple[Loss, Tensor]:
        """Update the weights once. Return the batch's loss and how many predictions are correct.

        `inputs` are this process's slice of the batch.
        """
        optimizer = self.state.optimizer
        scaler = self.state.scaler
        true = losses.main_labels(labels)
        results = []
        for part, rows in self.parts(inputs, len(labels)):
            with self.compute.autocast():
                logits = self.state.model(part)
            loss = losses.of_rows(self.loss, logits.float(), labels, rows)
            scaler.scale(loss).backward()
            n_correct = scores.n_correct(logits.detach(), batches.rows(true, rows))
            results.append((loss.detach(), n_correct))
        loss, n_correct = (reduce(torch.add, numbers) for numbers in zip(*results, strict=True))
        loss, n_correct = self.group.sum(optimizer, loss, n_correct)
        if self.p.clip_norm:
            scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(optimizers.weights_of(optimizer), self.p.clip_norm)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        return loss, n_correct

    def parts(self, inputs: Inputs, n: int) -> Iterator[tuple[Inputs, slice]]:
        """Yield the parts of this process's inputs, each with its rows of the batch of `n`."""
        first = self.group.part(n).start
        for part in batches.accumulated(len(inputs), n, self.p):
            yield batches.rows(inputs, part), slice(first + part.start, first + part.stop)

    def batches(self) -> Iterator[tuple[Inputs, Targets]]:
        """Yield what is left of this epoch's batches: all of them, unless training was resumed."""
        state = self.state
        epoch = len(state.epochs)
        for batch in self.epoch(state.generator, epoch, state.totals.n_steps, self.group):
            self.group.seed(self.p.seed, state.step)
            yield batch

    def epoch(
        self, generator: torch.Generator, number: int, after: int, group: Group
    ) -> Iterator[tuple[Inputs, Targets]]:
        """Yield an epoch's batches without the first `after`: a process's slices of the inputs."""
        p = self.p
        mixing = self.mixing
        for inputs, labels in batches.shuffled(
            self.train_split,
            p.batch_size,
            self.augment,
            generator,
            seed=p.seed,
            epoch=number,
            after=after,
            part=mixing.part(group) if mixing else group.part,
            sampling=p.sampling,
        ):
            if mixing:
                seen = self.state.model.cropped(inputs)
                yield mixing.mixed(seen, labels, generator, group)
            else:
                yield inputs, labels

    def set_learning_rate(self) -> float:
        """Set the learning rates of the next step, and return the head's."""
        state = self.state
        progress = (state.step + 0.5) / self.total_steps
        rate = self.learning_rate(Moment(progress, len(state.epochs), state.val_losses))
        for group in state.optimizer.param_groups:
            group["lr"] = rate * group[optimizers.LR_SCALE]
        return rate

    @property
    def total_steps(self) -> int:
        """The number of steps without early stopping."""
        return self.p.epochs * batches.count(self.train_split, self.p.batch_size)

    def first_batch(self) -> tuple[Inputs, BatchLabels]:
        """Return the first batch of the first epoch, augmented, without changing the RNG state.

        Of mixed inputs, the labels are those with the larger share.
        """
        inputs, targets = next(self.epoch(torch.Generator(), 0, 0, processes.ALONE))
        return self.state.model.cropped(inputs), losses.main_labels(targets)

    def precompute_features(self) -> None:
        """Replace inputs by a frozen backbone's features, if they are the same in every epoch.

        From then on `state.model` is the head, which shares its weights with the whole model.
        """
        if not self.p.freeze_backbone or self.p.unfreeze_epoch or self.augment or self.mixing:
            return
        print("computing the frozen backbone's features of all samples, once", flush=True)
        model = self.state.model
        with self.compute.autocast():
            self.train_split = inference.features(model, self.train_split)
        self.validation_split = inference.features(model, self.validation_split)
        self.state.replace_model(model.head_alone())


def create(
    p: Train,
    compute: Compute,
    model: Classifier,
    train_split: Split,
    validation_split: Split,
    n_classes: int,
    group: Group = processes.ALONE,
) -> Trainer:
    """Create the trainer that the parameters describe. Raises ParamsError for invalid settings."""
    processes.check(p, train_split)
    # Counted on the CPU: not every device does it deterministically.
    counts = train_split.labels.cpu().bincount(minlength=n_classes).to(compute.device)
    loss = params.bind(LOSSES, p.loss, "losses")(counts)
    optimizer = params.bind(OPTIMIZERS, p.optimizer, "optimizers")
    schedule = params.bind(SCHEDULES, p.schedule, "schedules")
    model = model.to(compute.device)
    compute.prepare(model)
    group.prepare(model)
    return Trainer(
        state=State(model, optimizer(optimizers.groups(model, p)), compute, p.ema_decay),
        train_split=train_split,
        validation_split=validation_split,
        augment=augmentations.create(p.augmentation, model.shape[1:]),
        loss=loss,
        learning_rate=lambda moment: p.lr * schedule(moment),
        compute=compute,
        p=p,
        group=group,
        mixing=Mixing(p.mixup, p.cutmix) if p.mixes else None,
    )


def validate(model: Classifier, split: Split, group: Group) -> tuple[float, float]:
    """Return the mean cross-entropy of a split, in nats, and its accuracy, 0..1.

    Both, and the model's running statistics, are equal in all processes.
    """
    group.copy_first(model.buffers())
    logits = inference.outputs(model, split, group.map).logits
    return scores.loss(logits, split.labels), scores.accuracy(logits, split.labels)
