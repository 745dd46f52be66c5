"""All that training changes. What is saved of it after any step goes on as if nothing had been in between."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from retrace.classifier import Classifier
from retrace.errors import DivergedError
from retrace.params import Train

Values = dict[str, Any]  # tensors, and what JSON can hold


class Epoch(NamedTuple):
    """What is known when an epoch is over. The training figures are means over the epoch, while the weights moved;
    `train_loss` is what training minimises, `val_loss` the plain cross-entropy.
    """

    epoch: int  # counted from 1
    train_loss: float
    train_accuracy: float
    val_loss: float
    val_accuracy: float


class Step(NamedTuple):
    """What is known after a step. Tensors: reading one waits for the device, so read few."""

    step: int  # of all, counted from 1
    n_images: int
    learning_rate: float
    loss: Tensor
    n_correct: Tensor


class Coming:
    """A step's loss on its way from the device, which does the steps after it meanwhile."""

    def __init__(self, step: Step) -> None:
        self.step = step.step
        self._loss, self._sent = step.loss, None
        if step.loss.is_cuda:
            self._loss, self._sent = step.loss.to("cpu", non_blocking=True), torch.cuda.Event()
            self._sent.record()

    def read(self) -> float:
        """Once that step is over."""
        if self._sent:
            self._sent.synchronize()
        return self._loss.item()


NO_LOSS, NONE_CORRECT = torch.zeros(()), torch.zeros((), dtype=torch.int64)  # which any device adds to its own


class Totals:
    """Of an epoch's steps, summed on the device, which nothing waits for until the end."""

    def __init__(self) -> None:
        self.n_steps, self.n_images = 0, 0
        self.loss, self.n_correct = NO_LOSS, NONE_CORRECT

    def add(self, step: Step) -> None:
        loss, n_correct = step.loss * step.n_images, step.n_correct
        if self.n_steps:  # or there is nothing to add to, and a small network's epoch may be but one step
            loss, n_correct = self.loss + loss, self.n_correct + n_correct
        self.loss, self.n_correct = loss, n_correct
        self.n_steps += 1
        self.n_images += step.n_images

    def means(self) -> tuple[float, float]:
        """The loss and the accuracy, 0..1."""
        return self.loss.item() / self.n_images + 0.0, self.n_correct.item() / self.n_images  # and no -0.0


class State:
    """Of a training: the network, the optimizer, the epochs so far, the steps of this one, and what chance has left."""

    def __init__(self, model: Classifier, optimizer: torch.optim.Optimizer, device: torch.device) -> None:
        self.model, self.optimizer, self.device = model, optimizer, device
        self.step = 0
        self.epochs: list[Epoch] = []
        self.val_losses: list[float] = []  # of these
        self.lowest: Epoch | None = None  # the first with the lowest validation loss, not to be sought at every epoch
        self.best: dict[str, Tensor] = {}  # its weights, if they are what training ends with
        self.totals = Totals()
        self.generator = torch.Generator()  # of this epoch's augmentation
        self._last: Coming | None = None
        self._finite: float | None = None  # the loss of the step before

    def is_over(self, p: Train) -> bool:
        waited = len(self.epochs) - self.lowest.epoch if self.lowest else 0
        return len(self.epochs) >= p.epochs or bool(p.patience and waited >= p.patience)

    def stepped(self, step: Step) -> None:
        """Raises DivergedError if the step before this one had no finite loss; this one's may still be at work."""
        self.step = step.step
        self.totals.add(step)
        before, self._last = self._last, Coming(step)
        if before:
            self._demand_finite(before.step, before.read())

    def scored(self, epoch: Epoch, p: Train) -> None:
        self._add(epoch)
        self.totals = Totals()
        if p.keep == "best" and self.lowest is epoch:
            self.best = {name: tensor.clone() for name, tensor in self.model.state_dict().items()}

    def finish(self, p: Train) -> Epoch:
        """The epoch whose weights the network has from now on."""
        if p.keep == "last" or self.lowest is None:
            return self.epochs[-1]
        self.model.load_state_dict(self.best)
        return self.lowest

    def state_dict(self) -> Values:
        """All of it, on the CPU: to be written at once, since tensors may be the network's own. Raises DivergedError
        where a weight is not finite.
        """
        model = {f"model.{name}": tensor for name, tensor in self.model.state_dict().items()}
        for name, tensor in model.items():
            if tensor.is_floating_point() and not tensor.isfinite().all():
                raise DivergedError(f"step {self.step}: {name} is not finite after it; lower lr")
        values: Values = model | {f"best.{name}": tensor for name, tensor in self.best.items()}
        values |= {f"optimizer.{name}": value for name, value in _flat(self.optimizer).items()}
        values |= {f"totals.{name}": value for name, value in vars(self.totals).items()}
        values |= {"random.torch": torch.get_rng_state(), "random.augmentation": self.generator.get_state()}
        if self.device.type == "cuda":
            values["random.cuda"] = torch.cuda.get_rng_state(self.device)
        values |= {"step": self.step, "epochs": [epoch._asdict() for epoch in self.epochs]}
        return {name: value.detach().cpu() if isinstance(value, Tensor) else value for name, value in values.items()}

    def load_state_dict(self, values: Values) -> None:
        """It is as it was when `state_dict` gave this, of the same network, optimizer and device."""
        self.step = values["step"]
        for epoch in values["epochs"]:
            self._add(Epoch(**epoch))
        self.model.load_state_dict(_under("model.", values))
        self.best = {name: tensor.to(self.device) for name, tensor in _under("best.", values).items()}
        _restore(self.optimizer, _under("optimizer.", values))
        self.totals = Totals()
        for name, value in _under("totals.", values).items():
            setattr(self.totals, name, value.to(self.device) if isinstance(value, Tensor) else value)
        self.generator.set_state(values["random.augmentation"])
        torch.set_rng_state(values["random.torch"])
        if self.device.type == "cuda":
            torch.cuda.set_rng_state(values["random.cuda"], self.device)

    def _add(self, epoch: Epoch) -> None:
        self.epochs.append(epoch)
        self.val_losses.append(epoch.val_loss)
        if self.lowest is None or epoch.val_loss < self.lowest.val_loss:
            self.lowest = epoch

    def _demand_finite(self, step: int, loss: float) -> None:
        if not math.isfinite(loss):
            was = "" if self._finite is None else f", after {self._finite:.4g} in the step before"
            raise DivergedError(f"step {step}: the training loss is {loss}{was}; lower lr")
        self._finite = loss


def _flat(optimizer: torch.optim.Optimizer) -> Values:
    """What the optimizer remembers of each weight, as `number.name`."""
    state = optimizer.state_dict()["state"]
    return {f"{number}.{name}": value for number, held in state.items() for name, value in held.items()}


def _restore(optimizer: torch.optim.Optimizer, flat: Mapping[str, Any]) -> None:
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    state: dict[int, dict[str, Any]] = {}
    for key, value in flat.items():
        number, _, name = key.partition(".")
        weight = weights[int(number)]
        state.setdefault(int(number), {})[name] = _laid_out(value, weight)
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


@torch.no_grad()
def _laid_out(value: Any, weight: Tensor) -> Any:
    """A tensor of the weight's shape has the weight's memory format too, as it had when it was saved."""
    if isinstance(value, Tensor) and value.shape == weight.shape:
        return torch.empty_like(weight).copy_(value)
    return value


def _under(prefix: str, values: Values) -> Values:
    return {name.removeprefix(prefix): value for name, value in values.items() if name.startswith(prefix)}
