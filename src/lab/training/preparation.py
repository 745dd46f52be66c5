"""The trainer that params.yaml and data/processed describe, before its first step."""

from lab import paths
from lab.data import batches, storage
from lab.models import initialization
from lab.models.classifier import ModelConfig
from lab.params import Train
from lab.training import loop, processes
from lab.training.device import Compute
from lab.training.loop import Trainer
from lab.training.processes import Group


def prepare(
    p: Train, compute: Compute, group: Group = processes.ALONE
) -> tuple[Trainer, ModelConfig]:
    """Load both splits and build the untrained network.

    Raises DataError if data/processed is missing, and ParamsError for invalid settings.
    """
    samples, scale = storage.load(paths.TRAIN)
    validation_samples, _ = storage.load(paths.VALIDATION)
    model, config = initialization.build(p, samples, scale)
    train_split = batches.on_device(samples, compute.device)
    validation_split = batches.on_device(validation_samples, compute.device)
    n_classes = len(config.class_names)
    trainer = loop.create(p, compute, model, train_split, validation_split, n_classes, group)
    return trainer, config
