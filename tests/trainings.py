"""Small trainings that tests stop after a step and resume."""

from collections.abc import Callable

import pytest
import torch
from conftest import typed

from lab import params
from lab.data import batches, storage
from lab.data.samples import Samples
from lab.models import classifier
from lab.training import device, loop, processes
from lab.training.processes import Group
from lab.training.state import Epoch, Step

SMALL = {
    "epochs": 3,
    "batch_size": 40,
    "threads": 1,
    "lr": 0.01,
    "device": "cpu",
    "precision": "float32",
}
N_STEPS = 7  # of an epoch

KINDS = {
    "default": {},
    "momentum": {"optimizer": "sgd"},
    "adam": {"optimizer": "adam"},
    "rmsprop": {"optimizer": "rmsprop"},
    "no optimizer state": {"optimizer": "sgd_scratch", "model": "softmax"},
    "dropout, batch norm, augmentation": {"model": "cifar_v3", "augmentation": "crop_flip"},
    "best epoch": {"keep": "best", "schedule": "constant", "lr": 0.2, "optimizer": "sgd"},
    "last epoch, plateau": {"keep": "last", "schedule": "plateau"},
    "patience": {"patience": 1, "schedule": "constant", "lr": 0.2, "optimizer": "sgd", "epochs": 9},
    "bfloat16": {"precision": "bfloat16"},
    "mlp": {"model": "mlp", "optimizer": "adam"},
    "accumulation, clipping, average": {
        "model": "cifar_v3",
        "augmentation": "crop_flip",
        "accumulation": 3,
        "clip_norm": 0.5,
        "ema_decay": 0.9,
    },
    "average, last epoch": {"ema_decay": 0.8, "keep": "last", "layer_decay": 0.5},
    "float16": {"precision": "float16"},
    "unfreezing": {
        "model": "cifar_v3",
        "freeze_backbone": True,
        "unfreeze_epoch": 1,
        "layer_decay": 0.7,
    },
}


class Stopped(BaseException):
    """Stands for a kill."""


class Training:
    """A training on the stripes that can be stopped after a step."""

    def __init__(self, stripes: Samples, group: Group = processes.ALONE, **changed: object) -> None:
        p = typed(params.Train, **(SMALL | changed))
        compute = device.configure(p, p.precision)
        torch.manual_seed(p.seed)
        model = classifier.build(classifier.config_of(p.model, stripes, storage.scale(stripes)))
        if p.freeze_backbone:
            model.freeze_backbone()
        split = batches.on_device(stripes, compute.device)
        train_split = batches.Split(split.inputs[:280], split.labels[:280])
        validation_split = batches.Split(split.inputs[280:], split.labels[280:])
        self.trainer = loop.create(
            p, compute, model, train_split, validation_split, n_classes=3, group=group
        )
        self.state = self.trainer.state
        self.steps: list[tuple[float, float]] = []

    def run(self, stop_after: int | None = None) -> Epoch:
        """Train to the end, or raise Stopped after a step."""

        def on_step(step: Step) -> None:
            self.steps.append((step.learning_rate, step.loss.item()))
            if step.step == stop_after:
                raise Stopped

        return self.trainer.train(on_step, on_epoch=lambda _: None)

    def bits(self) -> dict[str, bytes]:
        """Return the bytes of each weight."""
        weights = self.state.model.state_dict()
        return {name: tensor.numpy().tobytes() for name, tensor in weights.items()}


def complete_and_resumed(create: Callable[[], Training]) -> tuple[Training, Training]:
    """Return a complete training, and one resumed from the state of a third that was stopped."""
    complete, stopped, resumed = (create() for _ in range(3))
    torch.manual_seed(0)
    rng_state = torch.get_rng_state()
    complete.run()
    torch.set_rng_state(rng_state)
    with pytest.raises(Stopped):
        stopped.run(stop_after=N_STEPS + 3)
    resumed.state.load_state_dict(stopped.state.state_dict())
    resumed.run()
    return complete, resumed
