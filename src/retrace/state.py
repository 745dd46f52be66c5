"""All that training changes. What is saved of it after any step goes on as if nothing had been in between."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from retrace.classifier import Classifier
from retrace.errors import DivergedError
from retrace.params import Train

Tensors = dict[str, Tensor]
Facts = dict[str, Any]  # of JSON's types


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
    loss: Tensor
    n_correct: Tensor


class Seen:
    """Loss and right answers of an epoch's steps, summed on the device, which nothing waits for until the end."""

    def __init__(self, device: torch.device) -> None:
        self.n_steps, self.n_images = 0, 0
        self.loss = torch.zeros((), device=device)
        self.n_correct = torch.zeros((), dtype=torch.int64, device=device)

    def add(self, step: Step) -> None:
        self.n_steps += 1
        self.n_images += step.n_images
        self.loss += step.loss * step.n_images
        self.n_correct += step.n_correct


class State:
    """Of a training: the network, the optimizer, the epochs so far, the steps of this one, and what chance has left."""

    def __init__(self, model: Classifier, optimizer: torch.optim.Optimizer, device: torch.device) -> None:
        self.model, self.optimizer, self.device = model, optimizer, device
        self.step = 0
        self.epochs: list[Epoch] = []
        self.lowest: Epoch | None = None  # in validation loss
        self.best: Tensors = {}  # its weights, if they are what training ends with
        self.seen = Seen(device)
        self.random = torch.Generator()  # of this epoch's augmentation
        self._last: Step | None = None
        self._finite: float | None = None  # the loss of the step before

    def is_over(self, p: Train) -> bool:
        waited = len(self.epochs) - self.lowest.epoch if self.lowest else 0
        return len(self.epochs) >= p.epochs or bool(p.patience and waited >= p.patience)

    def stepped(self, step: Step) -> None:
        """Raises DivergedError if the step before this one had no finite loss; this one's may still be at work."""
        self.step = step.step
        self.seen.add(step)
        before, self._last = self._last, step
        if before is not None:
            self._demand_finite(before.step, before.loss.item())

    def scored(self, epoch: Epoch, p: Train) -> None:
        self.epochs.append(epoch)
        self.seen = Seen(self.device)
        if self.lowest is None or epoch.val_loss < self.lowest.val_loss:
            self.lowest = epoch
            if p.keep == "best":
                self.best = {name: tensor.clone() for name, tensor in self.model.state_dict().items()}

    def finish(self, p: Train) -> Epoch:
        """The epoch whose weights the network has from now on."""
        if p.keep == "last" or self.lowest is None:
            return self.epochs[-1]
        self.model.load_state_dict(self.best)
        return self.lowest

    def saved(self) -> tuple[Tensors, Facts]:
        """Copies on the CPU, and what is no tensor. Raises DivergedError where a weight is not finite."""
        optimizer = _flat(self.optimizer)
        tensors = {f"model.{name}": tensor for name, tensor in self.model.state_dict().items()}
        tensors |= {f"best.{name}": tensor for name, tensor in self.best.items()}
        tensors |= {f"optimizer.{name}": value for name, value in optimizer.items() if isinstance(value, Tensor)}
        for name, tensor in tensors.items():
            if tensor.is_floating_point() and not tensor.isfinite().all():
                raise DivergedError(f"step {self.step}: {name} is not finite after it; lower lr")
        tensors |= {"seen.loss": self.seen.loss, "seen.n_correct": self.seen.n_correct}
        tensors |= {"random.torch": torch.get_rng_state(), "random.augmentation": self.random.get_state()}
        if self.device.type == "cuda":
            tensors["random.cuda"] = torch.cuda.get_rng_state(self.device)
        facts = {
            "step": self.step,
            "n_steps": self.seen.n_steps,
            "n_images": self.seen.n_images,
            "epochs": [asdict(epoch) for epoch in self.epochs],
            "lowest": self.lowest and self.lowest.epoch,
            "optimizer": {name: value for name, value in optimizer.items() if not isinstance(value, Tensor)},
        }
        return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, facts

    def restore(self, tensors: Tensors, facts: Facts) -> None:
        """It is as it was when `saved` gave this, of the same network, optimizer and device."""
        self.step = facts["step"]
        self.epochs = [Epoch(**epoch) for epoch in facts["epochs"]]
        self.lowest = self.epochs[facts["lowest"] - 1] if facts["lowest"] else None
        self.model.load_state_dict(_under("model.", tensors))
        self.best = {name: tensor.to(self.device) for name, tensor in _under("best.", tensors).items()}
        _restore(self.optimizer, _under("optimizer.", tensors) | facts["optimizer"])
        self.seen = Seen(self.device)
        self.seen.n_steps, self.seen.n_images = facts["n_steps"], facts["n_images"]
        self.seen.loss.copy_(tensors["seen.loss"])
        self.seen.n_correct.copy_(tensors["seen.n_correct"])
        self.random.set_state(tensors["random.augmentation"])
        torch.set_rng_state(tensors["random.torch"])
        if self.device.type == "cuda":
            torch.cuda.set_rng_state(tensors["random.cuda"], self.device)

    def _demand_finite(self, step: int, loss: float) -> None:
        if not math.isfinite(loss):
            was = "" if self._finite is None else f", after {self._finite:.4g} in the step before"
            raise DivergedError(f"step {step}: the training loss is {loss}{was}; lower lr")
        self._finite = loss


def _flat(optimizer: torch.optim.Optimizer) -> Facts:
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


def _under(prefix: str, tensors: Tensors) -> Tensors:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
