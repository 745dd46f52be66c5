"""The classifier that training starts from."""

import numpy as np
import torch

from lab import params
from lab.data import batches
from lab.data.samples import Samples
from lab.data.storage import Scale
from lab.models import classifier, pretrained
from lab.models.classifier import Classifier, ModelConfig
from lab.models.networks import MODELS
from lab.params import Train
from retrace.errors import ParamsError

# Limits of the data that initializes layers: samples, and values in total.
MAX_SAMPLES = 2000
MAX_NUMBERS = 8_000_000


def build(p: Train, samples: Samples, measured: Scale) -> tuple[Classifier, ModelConfig]:
    """Build the untrained classifier and its config; `measured` is the train split's scale.

    Seeds torch's generator. Raises ParamsError if the parameters do not fit the samples.
    """
    if not samples.are_images and p.augmentation.name != "none":
        raise ParamsError(
            f"params.yaml: augmentation is {p.augmentation.name!r}; "
            "should be none: the samples are not images"
        )
    if not samples.are_images and p.cutmix:
        raise ParamsError(
            f"params.yaml: cutmix is {p.cutmix}; should be 0.0: the samples are not images; "
            "mixup mixes them"
        )
    params.bind(MODELS, p.model, "models")
    config = classifier.config_of(p.model, samples, measured)
    if p.input_size:
        config = _cropped(config, p.input_size)
    torch.manual_seed(p.seed)
    model = classifier.build(config)
    digest = None if p.pretrained == "none" else pretrained.load_into(model, p.pretrained)
    scale = classifier.scale_of(p.scaling, samples, measured, pretrained.scale(model, digest))
    model.set_scale(scale, config.shape)
    config = config.model_copy(update={"mean": scale.mean, "std": scale.std, "pretrained": digest})
    if model.needs_data and digest is None:
        n = max(1, min(MAX_SAMPLES, MAX_NUMBERS // samples.inputs[0].size))
        model.initialize(torch.from_numpy(np.array(samples.inputs[:n])))
    if p.freeze_backbone:
        model.freeze_backbone()
    if not p.freeze_backbone:
        _check_batch_norm(p, len(samples), model, config)
    return model, config


def _cropped(config: ModelConfig, side: int) -> ModelConfig:
    """Return the config of a network that sees the center of the images.

    Raises ParamsError if the images have no such center.
    """
    start = f"params.yaml: input_size is {side}; should be"
    if len(config.shape) != 3:
        raise ParamsError(f"{start} 0: the samples are not images")
    channels, *stored = config.shape
    if side > min(stored) or any((edge - side) % 2 for edge in stored):
        parity = "odd" if min(stored) % 2 else "even"
        raise ParamsError(
            f"{start} {parity} and at most {min(stored)}, the side of the stored images, or 0"
        )
    resize = config.resize or min(stored)
    return config.model_copy(update={"shape": (channels, side, side), "resize": resize})


def _check_batch_norm(p: Train, n: int, model: Classifier, config: ModelConfig) -> None:
    """Raise ParamsError if one sample is computed alone, and the model does not take one."""
    if p.batch_size == params.AUTO:
        return
    slices = {n_batch: n_batch // p.processes for n_batch in batches.sizes(n, p.batch_size)}
    parts = [
        part
        for n_batch, n_slice in slices.items()
        if n_slice
        for part in batches.accumulated(n_slice, n_batch, p)
    ]
    if all(part.stop - part.start > 1 for part in parts) or classifier.takes_one(model, config):
        return
    if min(slices.values()) > 1:
        raise ParamsError(
            f"params.yaml: accumulation is {p.accumulation}, but with batch_size {p.batch_size} a "
            f"part has one sample, and this model has batch norm; should be {p.accumulation // 2} "
            "or less"
        )
    if p.processes == 1:
        raise ParamsError(
            f"params.yaml: batch_size is {p.batch_size}; "
            "should be 2 or more, because this model has batch norm"
        )
    smallest = min(slices)
    raise ParamsError(
        f"params.yaml: processes is {p.processes}, but with batch_size {p.batch_size} the last "
        f"batch has {smallest} samples, and each process takes two or more, because this model "
        f"has batch norm; should be {max(1, smallest // 2)} or less"
    )
