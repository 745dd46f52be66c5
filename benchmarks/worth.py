"""Measure what each setting of training is worth: accuracy, loss and seconds with it and without.

    python benchmarks/worth.py [--only TASK] [--n SEEDS] [--write]

A task is a few photographs of CIFAR-10 and a network. Its rows differ in the named settings only,
and have the same seeds. Test images are seen by validation alone, which selects nothing: the
weights of the last epoch are kept. `--write` writes the table to docs/training.md. Uses the lab
directly: nothing is tracked. A quarter of an hour on two idle cores.
"""

import sys
import time
from argparse import ArgumentParser
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import table
import torch

from lab import params
from lab.data import batches, storage
from lab.data.datasets import cifar10
from lab.data.samples import Samples
from lab.models import initialization
from lab.params import Train
from lab.training import device, loop
from retrace.pipeline import params_yaml

PAGE = Path("docs/training.md")
BEGIN, END = "<!-- worth -->\n", "<!-- /worth -->"
TOP = ("images", "settings", "test accuracy: mean (min..max)", "loss", "seconds", "n")
N_TEST = 200  # images of a class
WEIGHTS = dict[str, torch.Tensor]

Settings = dict[str, Any]


@dataclass(frozen=True)
class Task:
    """A training set, and the rows that are compared on it."""

    name: str
    shares: tuple[int, ...]  # training images of each class; 0: the class is left out
    base: Settings
    rows: dict[str, Settings]
    pretrained_on: int = 0  # images of each class that is left out


COMMON = {
    "dataset": "cifar10",
    "model": "cifar_v3",
    "batch_size": 64,
    "epochs": 12,
    "keep": "last",
    "lr": 0.003,
    "augmentation": "crop_flip",
}
WEIGHTED = {"cross_entropy": {"label_smoothing": 0.0, "class_weights": "balanced"}}
FROZEN = {"freeze_backbone": True}
TASKS = (
    Task(
        "200 of each class",
        (200,) * 10,
        {},
        {
            "augmentation: crop_flip": {},
            "augmentation: none": {"augmentation": "none"},
            "augmentation: random_resized_crop": {"augmentation": "random_resized_crop"},
            "augmentation: trivial_augment": {"augmentation": "trivial_augment"},
            "augmentation: random_erasing": {"augmentation": "random_erasing"},
            "mixup: 0.4": {"mixup": 0.4},
            "cutmix: 1.0": {"cutmix": 1.0},
            "ema_decay: 0.98": {"ema_decay": 0.98},
            "clip_norm: 1.0": {"clip_norm": 1.0},
            "accumulation: 4": {"accumulation": 4},
            "precision: float32": {"precision": "float32"},
            "precision: bfloat16": {"precision": "bfloat16"},
            "precision: float16": {"precision": "float16"},
        },
    ),
    Task(
        "200 of five classes, 10 of the other five",
        (200, 10) * 5,
        {},
        {
            "sampling: shuffled": {},
            "sampling: balanced": {"sampling": "balanced"},
            "losses.cross_entropy.class_weights: balanced": {"losses": WEIGHTED},
        },
    ),
    Task(
        "20 of five classes, backbone trained on the other five",
        (0,) * 5 + (20,) * 5,
        {"epochs": 30, "batch_size": 20},
        {
            "all layers": {},
            "freeze_backbone": FROZEN,
            "freeze_backbone, unfreeze_epoch: 10": FROZEN | {"unfreeze_epoch": 10},
            "layer_decay: 0.7": {"layer_decay": 0.7},
            "freeze_backbone, unfreeze_epoch: 10, layer_decay: 0.7": FROZEN
            | {"unfreeze_epoch": 10, "layer_decay": 0.7},
        },
        pretrained_on=500,
    ),
)


@dataclass(frozen=True)
class Result:
    """What one training reached."""

    accuracy: float  # 0..1
    loss: float
    seconds: float


def few(samples: Samples, shares: Iterable[int]) -> Samples:
    """Return the first images of each class, as many as given; classes with none are left out."""
    chosen = {number: share for number, share in enumerate(shares) if share}
    rows = [np.flatnonzero(samples.labels == label)[:share] for label, share in chosen.items()]
    indices = np.sort(np.concatenate(rows))
    labels = np.searchsorted(list(chosen), samples.labels[indices])
    names = tuple(samples.class_names[label] for label in chosen)
    return Samples(samples.inputs[indices], labels, names)


def train(changed: Settings, train_set: Samples, test_set: Samples, trunk: WEIGHTS) -> Result:
    """Train once. `trunk` are the weights that the backbone starts from; none: random ones."""
    result, _ = _trained(changed, train_set, test_set, trunk)
    return result


def _trained(
    changed: Settings, train_set: Samples, test_set: Samples, trunk: WEIGHTS
) -> tuple[Result, WEIGHTS]:
    experiment = params.checked(params_yaml.read(Path("params.yaml")) | COMMON | changed)
    p = Train.model_construct(**{name: getattr(experiment, name) for name in Train.model_fields})
    compute = device.configure(p, p.precision)
    model, _ = initialization.build(p, train_set, storage.scale(train_set))
    if trunk:
        model.trunk.load_state_dict(trunk)
    train_split = batches.on_device(train_set, compute.device)
    test_split = batches.on_device(test_set, compute.device)
    started = time.perf_counter()
    n_classes = len(train_set.class_names)
    trainer = loop.create(p, compute, model, train_split, test_split, n_classes)
    trainer.precompute_features()
    kept = trainer.train(lambda _: None, lambda _: None)
    seconds = time.perf_counter() - started
    return Result(kept.val_accuracy, kept.val_loss, seconds), model.trunk.state_dict()


def measure(task: Task, raw: tuple[Samples, Samples], n: int, changed: Settings) -> Iterator[str]:
    """Yield the table's lines of a task: each row is trained with `n` seeds, in turns."""
    train_set = few(raw[0], task.shares)
    test_set = few(raw[1], [N_TEST * (share > 0) for share in task.shares])
    trunk: WEIGHTS = {}
    if task.pretrained_on:
        others = [task.pretrained_on * (share == 0) for share in task.shares]
        _, trunk = _trained(changed, few(raw[0], others), few(raw[1], others), {})
    train(task.base | changed | {"epochs": 1}, train_set, test_set, trunk)  # kernels are chosen
    results: dict[str, list[Result]] = {name: [] for name in task.rows}
    for seed in range(n):
        for name, settings in task.rows.items():
            print(f"{task.name}: {name}, seed {seed}", file=sys.stderr)
            own = task.base | settings | changed | {"seed": seed}
            results[name].append(train(own, train_set, test_set, trunk))
    for name, trainings in results.items():
        yield line(task.name, name, trainings)


def line(task: str, name: str, results: list[Result]) -> str:
    """Return a row of the table."""
    accuracies = [100 * result.accuracy for result in results]
    return table.line(
        task,
        f"`{name}`",
        f"{fmean(accuracies):.1f} % ({min(accuracies):.1f}..{max(accuracies):.1f})",
        f"{fmean(result.loss for result in results):.3f}",
        f"{fmean(result.seconds for result in results):.1f}",
        f"{len(results)}",
    )


def main() -> None:
    parser = ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", choices=[task.name for task in TASKS], help="only this task")
    parser.add_argument("--n", type=int, default=3, help="number of seeds (default: 3)")
    parser.add_argument("--epochs", type=int, help="of every training, to try the program out")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads (default: 2)")
    parser.add_argument("--write", action="store_true", help=f"write the table to {PAGE}")
    args = parser.parse_args()
    with table.place() as folder:
        cifar10.collect(folder)
        raw = cifar10.read(folder)
    assert raw.test is not None
    changed: Settings = {"threads": args.threads}
    if args.epochs:
        changed |= {"epochs": args.epochs, "unfreeze_epoch": 0}
    tasks = [task for task in TASKS if args.only in (None, task.name)]
    lines = [table.line(*TOP), table.line(*["---"] * len(TOP))]
    for task in tasks:
        lines += measure(task, (raw.train, raw.test), args.n, changed)
    print("\n".join(lines))
    if args.write:
        table.replace(PAGE, BEGIN, END, lines)


if __name__ == "__main__":
    main()
