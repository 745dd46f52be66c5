"""One of three processes that train together: `python tests/ranks.py RANK FOLDER PORT PORT PORT`.

For one, two and three processes, those that take part write what they computed to FOLDER: tensors
as <size>-<rank>.safetensors, numbers as <size>-<rank>.json. One start of Python serves all tests.
"""

import json
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import conftest
import safetensors.torch
import torch
from repository import ROOT
from torch import Tensor
from trainings import Stopped, Training

from lab.data import batches
from lab.evaluation import inference
from lab.params import Train
from lab.training import device, processes
from lab.training.processes import Group
from retrace import errors
from retrace.pipeline import params_yaml

SIZES = (1, 2, 3)
WEIGHTS = [0.2, 1.0, 4.0]
# Batches of 100, 100 and 80 samples: no size of group divides all of them.
UNEVEN = {"batch_size": 100, "augmentation": "crop_flip"}
LOSSES: dict[str, dict[str, Any]] = {
    "cross_entropy": {},
    "cross_entropy smoothed": {"label_smoothing": 0.1},
    "cross_entropy weighted": {"class_weights": WEIGHTS},
    "cross_entropy smoothed, weighted": {"label_smoothing": 0.1, "class_weights": WEIGHTS},
    "cross_entropy_scratch": {},
    "focal": {},
    "focal weighted": {"alpha": WEIGHTS},
    "mse": {},
}
WEIGHTED = "cross_entropy smoothed, weighted"
N_VALIDATION = (300, 250, 150)  # three equal batches, a smaller last one, fewer than processes
NETWORK = {"channels": [8, 8, 8], "hidden": 16, "dropout": 0.4}
STOPPED_AT = 10


def values() -> params_yaml.Values:
    return params_yaml.read(ROOT / "params.yaml")


def noisy() -> dict[str, Any]:
    """Return the parameters of a training with dropout, batch norm and all that a step can have."""
    return {
        "model": "cifar_v3",
        "models": values()["models"] | {"cifar_v3": NETWORK},
        "epochs": 2,
        "keep": "last",
        "augmentation": "crop_flip",
        "freeze_backbone": True,
        "unfreeze_epoch": 1,
        "layer_decay": 0.9,
        "accumulation": 2,
        "clip_norm": 1.0,
        "ema_decay": 0.9,
        "precision": "float16",
    }


def changed(name: str) -> dict[str, Any]:
    """Return the parameters for a loss with these settings."""
    loss = name.partition(" ")[0]
    losses = values()["losses"]
    return UNEVEN | {"loss": loss, "losses": losses | {loss: losses[loss] | LOSSES[name]}}


def gradients(group: Group, name: str, accumulation: int = 1) -> dict[str, Tensor]:
    """Return loss, correct predictions and gradients of the first epoch's batches, by name."""
    settings = changed(name) | {"processes": group.size, "accumulation": accumulation}
    trainer = Training(conftest.striped(), group, **settings).trainer
    optimizer = trainer.state.optimizer
    computed = {}

    def record() -> None:
        for number, weight in enumerate(trainer.state.model.trainable()):
            assert weight.grad is not None
            computed[f"{name}/{batch}/{number}"] = weight.grad.clone().contiguous()

    optimizer.step = record  # pyright: ignore[reportAttributeAccessIssue]
    trainer.state.model.train()
    for batch, (inputs, labels) in enumerate(trainer.batches()):
        loss, n_correct = trainer.step(inputs, labels)
        computed[f"{name}/{batch}/loss"] = loss
        computed[f"{name}/{batch}/n_correct"] = n_correct
    return computed


def logits(group: Group) -> dict[str, Tensor]:
    """Return the logits of validation, by number of samples."""
    training = Training(conftest.striped())
    split = batches.on_device(conftest.striped(), torch.device("cpu"))
    computed = {}
    for n in N_VALIDATION:
        first = batches.Split(split.inputs[:n], split.labels[:n])
        outputs = inference.outputs(training.state.model, first, group.map)
        computed[f"logits/{n}"] = outputs.logits.contiguous()
    return computed


def trained(group: Group, name: str, stop_after: int | None = None) -> dict[str, Tensor]:
    """Return all weights after a training, which can be interrupted after a step."""
    settings = noisy() | {"processes": group.size}
    training = Training(conftest.striped(), group, **settings)
    if stop_after:
        stopped = Training(conftest.striped(), group, **settings)
        with suppress(Stopped):
            stopped.run(stop_after)
        values = stopped.state.state_dict()
        torch.manual_seed(99)  # as another process would have it
        training.state.load_state_dict(values)
    training.run()
    weights = training.state.model.state_dict()
    return {f"{name}/{key}": tensor.contiguous() for key, tensor in weights.items()}


def stopped(group: Group) -> dict[str, Any]:
    """Send a signal to the last process alone. Return the step after which this one stopped."""
    training = Training(conftest.striped(), group)

    def on_step(*_: object) -> None:
        if training.state.step == STOPPED_AT and group.rank == group.size - 1:
            os.kill(os.getpid(), signal.SIGTERM)

    errors.listen()
    with suppress(errors.Terminated):
        training.trainer.train(on_step, lambda _: None)
    return {"stopped": training.state.step}


def main(rank: int, folder: Path, ports: list[str]) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "MASTER_ADDR": "127.0.0.1"}
    for size, port in zip(SIZES, ports, strict=True):
        if rank >= size:
            continue
        os.environ |= {"WORLD_SIZE": str(size), "MASTER_PORT": port}
        p = conftest.typed(Train, processes=size, device="cpu", threads=1, precision="float32")
        with processes.joined(p, device.configure(p, p.precision)) as group:
            assert (group.rank, group.size) == (rank, size)
            tensors = logits(group)
            for name in LOSSES:
                tensors |= gradients(group, name)
            in_parts = gradients(group, WEIGHTED, accumulation=3)
            tensors |= {f"in parts: {key}": tensor for key, tensor in in_parts.items()}
            tensors |= trained(group, "complete") | trained(group, "again")
            tensors |= trained(group, "resumed", stop_after=STOPPED_AT)
            numbers = stopped(group)
            numbers["bytes"] = group.broadcast(b"a" * (10 if group.is_first else 0)).decode()
        safetensors.torch.save_file(tensors, folder / f"{size}-{rank}.safetensors")
        (folder / f"{size}-{rank}.json").write_text(json.dumps(numbers))


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
