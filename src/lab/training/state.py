"""The complete training state.

It can be saved after any step; a training resumed from it gives bit-identical results.
"""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lab.errors import DivergedError
from lab.models.classifier import Classifier
from lab.params import Train
from lab.shapes import Loss
from lab.training import optimizers
from lab.training.averaging import Average
from lab.training.device import Compute

Values = dict[str, Any]  # tensors, and what JSON can hold


class Epoch(NamedTuple):
    """The metrics of one epoch. Accuracies are 0..1.

    The training metrics are means over the epoch's steps, while the weights change. `train_loss` is
    the loss that is minimized, `val_loss` the plain cross-entropy in nats.
    """

    epoch: int  # counted from 1
    train_loss: float
    train_accuracy: float
    val_loss: float
    val_accuracy: float


class Step(NamedTuple):
    """The metrics of one step. Reading a tensor waits for the device, so read few."""

    step: int  # of the whole training, counted from 1
    n_images: int
    learning_rate: float
    loss: Tensor
    n_correct: Tensor


class Pending:
    """A number that a step computes, copied asynchronously while the device runs later steps."""

    def __init__(self, step: int, number: Tensor) -> None:
        self.step = step
        self._number = number
        self._copied = None
        if number.is_cuda:
            self._number = number.to("cpu", non_blocking=True)
            self._copied = torch.cuda.Event()
            self._copied.record()

    def read(self) -> float:
        """Wait for that step, and return the number."""
        if self._copied:
            self._copied.synchronize()
        return self._number.item()


class Totals:
    """Sums over an epoch's steps, on the device, so that no step waits for them."""

    def __init__(self) -> None:
        self.n_steps = 0
        self.n_images = 0
        self.loss = torch.zeros(())
        self.n_correct = torch.zeros((), dtype=torch.int64)

    def add(self, step: Step) -> None:
        """Add a step's loss, weighted by its number of images, and its correct predictions."""
        loss = step.loss * step.n_images
        # The first addend replaces the zeros, which are on the CPU.
        self.loss = self.loss + loss if self.n_steps else loss
        self.n_correct = self.n_correct + step.n_correct if self.n_steps else step.n_correct
        self.n_steps += 1
        self.n_images += step.n_images

    def means(self) -> tuple[float, float]:
        """Return the mean loss and the accuracy, 0..1."""
        loss = self.loss.item() / self.n_images + 0.0  # not -0.0
        return loss, self.n_correct.item() / self.n_images


class State:
    """A training's state: model, optimizer, finished epochs, this epoch's totals, RNG states."""

    def __init__(
        self,
        model: Classifier,
        optimizer: torch.optim.Optimizer,
        compute: Compute,
        ema_decay: float,
    ) -> None:
        self.optimizer = optimizer
        self.device = compute.device
        self.scaler = compute.scaler()
        self._ema_decay = ema_decay
        self.replace_model(model)
        self.step = 0  # steps so far
        self.epochs: list[Epoch] = []
        self.val_losses: list[float] = []  # of these epochs
        self.best_epoch: Epoch | None = None  # the first with the lowest validation loss
        self.best_weights: dict[str, Tensor] = {}  # of that epoch, if `keep` is best
        self.totals = Totals()
        self.generator = torch.Generator()  # of this epoch's augmentation
        self._pending: Pending | None = None
        self._last_finite_loss: float | None = None

    def replace_model(self, model: Classifier) -> None:
        """Train this model from now on, and average its weights."""
        self.model = model
        self.average = Average(model, self._ema_decay) if self._ema_decay else None

    @property
    def validated(self) -> Classifier:
        """The model that is validated and kept: the average, if there is one."""
        return self.average.model if self.average else self.model

    def is_over(self, p: Train) -> bool:
        """Return whether all epochs are done or early stopping applies."""
        n_epochs = len(self.epochs)
        n_worse = n_epochs - self.best_epoch.epoch if self.best_epoch else 0
        return n_epochs >= p.epochs or bool(p.patience and n_worse >= p.patience)

    def add_step(self, n_images: int, learning_rate: float, loss: Loss, n_correct: Tensor) -> Step:
        """Count a step. Raises DivergedError if the loss of the step before it is not finite.

        The loss of the step itself may still be computed by the device.
        """
        self.step += 1
        if self.average:
            self.average.update(self.step)
        step = Step(self.step, n_images, learning_rate, loss, n_correct)
        self.totals.add(step)
        before = self._pending
        self._pending = Pending(step.step, loss)
        if before:
            self._check_finite(before.step, before.read())
        return step

    def add_epoch(self, val_loss: float, val_accuracy: float, p: Train) -> Epoch:
        """End an epoch. Raises DivergedError if its losses are not finite."""
        number = len(self.epochs) + 1
        train_loss, train_accuracy = self.totals.means()
        if not math.isfinite(train_loss) or not math.isfinite(val_loss):
            raise DivergedError(
                f"epoch {number}: the training loss is {train_loss}, "
                f"the validation loss {val_loss}; lower lr"
            )
        epoch = Epoch(number, train_loss, train_accuracy, val_loss, val_accuracy)
        self._append(epoch)
        self.totals = Totals()
        if p.keep == "best" and self.best_epoch is epoch:
            weights = self.validated.state_dict()
            self.best_weights = {name: tensor.clone() for name, tensor in weights.items()}
        return epoch

    def finish(self, p: Train) -> Epoch:
        """Load the kept weights into the model. Return their epoch."""
        if p.keep == "last" or self.best_epoch is None:
            if self.average:
                self.model.load_state_dict(self.average.model.state_dict())
            return self.epochs[-1]
        self.model.load_state_dict(self.best_weights)
        return self.best_epoch

    def state_dict(self) -> Values:
        """Return the whole state, on the CPU. Raises DivergedError if a weight is not finite.

        Write it before the next step: tensors may share memory with the model.
        """
        model = _prefixed("model.", self.model.state_dict())
        for name, tensor in model.items():
            if tensor.is_floating_point() and not tensor.isfinite().all():
                raise DivergedError(
                    f"step {self.step}: {name} is NaN or infinite after this step; lower lr"
                )
        values: Values = model | _prefixed("best.", self.best_weights)
        values |= _prefixed("optimizer.", _flat(self.optimizer))
        values |= _prefixed("scaler.", self.scaler.state_dict())
        if self.average:
            values |= _prefixed("average.", self.average.model.state_dict())
        values |= _prefixed("totals.", vars(self.totals))
        values["random.torch"] = torch.get_rng_state()
        values["random.augmentation"] = self.generator.get_state()
        if self.device.type == "cuda":
            values["random.cuda"] = torch.cuda.get_rng_state(self.device)
        elif self.device.type == "mps":
            values["random.mps"] = torch.mps.get_rng_state()
        values["step"] = self.step
        values["epochs"] = [epoch._asdict() for epoch in self.epochs]
        return {name: _on_cpu(value) for name, value in values.items()}

    def load_state_dict(self, values: Values) -> None:
        """Restore what `state_dict` returned for the same model, optimizer and device."""
        self.step = values["step"]
        for epoch in values["epochs"]:
            self._append(Epoch(**epoch))
        self.model.load_state_dict(_with_prefix("model.", values))
        best = _with_prefix("best.", values)
        self.best_weights = {name: tensor.to(self.device) for name, tensor in best.items()}
        _load_flat(self.optimizer, _with_prefix("optimizer.", values))
        self.scaler.load_state_dict(_with_prefix("scaler.", values))
        if self.average:
            self.average.model.load_state_dict(_with_prefix("average.", values))
        self.totals = Totals()
        for name, value in _with_prefix("totals.", values).items():
            on_device = value.to(self.device) if isinstance(value, Tensor) else value
            setattr(self.totals, name, on_device)
        self.generator.set_state(values["random.augmentation"])
        torch.set_rng_state(values["random.torch"])
        if self.device.type == "cuda":
            torch.cuda.set_rng_state(values["random.cuda"], self.device)
        elif self.device.type == "mps":
            torch.mps.set_rng_state(values["random.mps"])

    def _append(self, epoch: Epoch) -> None:
        self.epochs.append(epoch)
        self.val_losses.append(epoch.val_loss)
        if self.best_epoch is None or epoch.val_loss < self.best_epoch.val_loss:
            self.best_epoch = epoch

    def _check_finite(self, step: int, loss: float) -> None:
        if not math.isfinite(loss):
            before = ""
            if self._last_finite_loss is not None:
                before = f", after {self._last_finite_loss:.4g} in the step before"
            raise DivergedError(f"step {step}: the training loss is {loss}{before}; lower lr")
        self._last_finite_loss = loss


def _flat(optimizer: torch.optim.Optimizer) -> Values:
    """Return the optimizer's state of each weight, by `number.name`."""
    states = optimizer.state_dict()["state"]
    return {
        f"{number}.{name}": value
        for number, state in states.items()
        for name, value in state.items()
    }


def _load_flat(optimizer: torch.optim.Optimizer, flat: Mapping[str, Any]) -> None:
    """Load what `_flat` returned."""
    weights = optimizers.weights_of(optimizer)
    states: dict[int, dict[str, Any]] = {}
    for key, value in flat.items():
        number, _, name = key.partition(".")
        weight = weights[int(number)]
        states.setdefault(int(number), {})[name] = _in_layout_of(weight, value)
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": states, "param_groups": groups})


@torch.no_grad()
def _in_layout_of(weight: Tensor, value: Any) -> Any:
    """Return a tensor of the weight's shape in the weight's memory format, as it was when saved."""
    if isinstance(value, Tensor) and value.shape == weight.shape:
        return torch.empty_like(weight).copy_(value)
    return value


def _on_cpu(value: Any) -> Any:
    return value.detach().cpu() if isinstance(value, Tensor) else value


def _prefixed(prefix: str, values: Mapping[str, Any]) -> Values:
    return {f"{prefix}{name}": value for name, value in values.items()}


def _with_prefix(prefix: str, values: Values) -> Values:
    """Return the values whose names begin with the prefix, without it."""
    return {
        name.removeprefix(prefix): value
        for name, value in values.items()
        if name.startswith(prefix)
    }
