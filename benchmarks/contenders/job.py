"""One training of the comparison: its settings, its data as data loaders, its result."""

import json
import math
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, Subset
from torchvision.transforms import v2

from contenders.networks import Classifier

STATISTICS = {  # mean and standard deviation by channel, as the tutorials write them
    "cnn": ([0.1307], [0.3081]),
    "cifar_v3": ([0.4914, 0.4822, 0.4465], [0.2470, 0.2435, 0.2616]),
}
IMAGENET = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
EXPERIMENT = "contenders"


@dataclass(frozen=True)
class Job:
    """What rivals.py asks for. `data` is data/processed, or a folder of images by class."""

    network: str
    data: str
    n_classes: int
    epochs: int
    batch_size: int
    lr: float
    optimizer: str  # adamw, sgd
    schedule: str  # one_cycle, constant
    augmentation: str  # none, shift, crop_flip, flip
    frozen: bool = False
    seed: int = 0
    threads: int = 2
    workers: int = 2

    @property
    def has_files(self) -> bool:
        return self.network not in STATISTICS

    def model(self) -> Classifier:
        torch.manual_seed(self.seed)
        return Classifier(self.network, self.n_classes, frozen=self.frozen, dtype=best_dtype())

    def factor(self, done: float) -> float:
        """Return the learning rate's factor when a share of all steps is done, as in retrace."""
        if self.schedule == "constant":
            return 1.0
        if done < WARMUP:
            return done / WARMUP
        return (1 + math.cos(math.pi * (done - WARMUP) / (1 - WARMUP))) / 2

    def optimizer_of(self, model: nn.Module) -> torch.optim.Optimizer:
        weights = [weight for weight in model.parameters() if weight.requires_grad]
        if self.optimizer == "sgd":
            return torch.optim.SGD(weights, self.lr, momentum=0.9)
        return torch.optim.AdamW(weights, self.lr, weight_decay=0.01)

    def datasets(self) -> tuple[Dataset[Any], Dataset[Any], Dataset[Any]]:
        """Return the train, validation and test split."""
        if self.has_files:
            return _of_folder(self)
        splits = ("train", "validation", "test")
        train, validation, test = (
            Packed(Path(self.data) / f"{split}.safetensors", self, is_train=split == "train")
            for split in splits
        )
        return train, validation, test

    def loaders(self) -> tuple[DataLoader[Any], DataLoader[Any], DataLoader[Any]]:
        """Return the data loaders of these splits, with worker processes."""
        train, *rest = self.datasets()
        settings: dict[str, Any] = {
            "batch_size": self.batch_size,
            "num_workers": self.workers,
            "persistent_workers": self.workers > 0,
        }
        validation, test = (DataLoader(split, **settings) for split in rest)
        return DataLoader(train, shuffle=True, **settings), validation, test


WARMUP = 0.3  # of all steps


class Packed(Dataset[Any]):
    """A packed split; images are transformed one by one, as DataLoader's workers do it."""

    def __init__(self, path: Path, job: Job, *, is_train: bool) -> None:
        from safetensors.torch import load_file

        tensors = load_file(path)
        self.images = tensors["inputs"]
        self.labels = tensors["labels"].tolist()
        self.transform = v2.Compose(
            [
                *(AUGMENTATIONS[job.augmentation]() if is_train else []),
                v2.ToDtype(torch.float32, scale=True),
                v2.Normalize(*STATISTICS[job.network]),
            ]
        )

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self.transform(self.images[index]), self.labels[index]


AUGMENTATIONS: dict[str, Callable[[], list[nn.Module]]] = {
    "none": list,
    "shift": lambda: [v2.RandomCrop(28, padding=1)],
    "crop_flip": lambda: [v2.RandomCrop(32, padding=4), v2.RandomHorizontalFlip()],
    "flip": lambda: [v2.RandomHorizontalFlip()],
}


def _of_folder(job: Job) -> tuple[Dataset[Any], Dataset[Any], Dataset[Any]]:
    """Return photos as ImageFolder reads them: decoded again in each epoch."""
    from torchvision.datasets import ImageFolder

    def images(augmentation: str) -> ImageFolder:
        steps = [v2.Resize(256), v2.CenterCrop(224), *AUGMENTATIONS[augmentation]()]
        steps += [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(*IMAGENET)]
        return ImageFolder(job.data, v2.Compose(steps))

    augmented = images(job.augmentation)
    plain = images("none")
    n = len(plain)
    order = torch.randperm(n, generator=torch.Generator().manual_seed(0)).tolist()
    n_test = n // 5
    n_validation = (n - n_test) // 10
    test = order[:n_test]
    validation = order[n_test : n_test + n_validation]
    train = order[n_test + n_validation :]
    return Subset(augmented, train), Subset(plain, validation), Subset(plain, test)


@dataclass
class Result:
    """What a training prints: seconds of each epoch with its validation, and the test accuracy."""

    n_images: int
    epoch_s: list[float] = field(default_factory=list)
    accuracy: float = 0.0
    began: float = field(default_factory=time.perf_counter)

    def end_epoch(self) -> None:
        now = time.perf_counter()
        self.epoch_s.append(now - self.began)
        self.began = now

    def print(self) -> None:
        speeds = [self.n_images / seconds for seconds in self.epoch_s]
        print(json.dumps({"images_per_s": speeds, "accuracy": self.accuracy}), flush=True)


def best_dtype() -> torch.dtype:
    """Return the data type that `precision: auto` of retrace takes on this CPU."""
    capabilities = torch.cpu.get_capabilities()
    is_native = capabilities.get("avx512_bf16", False) or capabilities.get("amx_tile", False)
    return torch.bfloat16 if is_native else torch.float32


def from_command_line() -> Job:
    job = Job(**json.loads(sys.argv[1]))
    torch.set_num_threads(job.threads)
    return job
