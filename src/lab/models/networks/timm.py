"""Any of timm's classifiers by name, with a new head (Wightman 2019, pytorch-image-models).

timm is imported only if it is chosen: its import takes longer than torch's.
"""

import difflib
import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from lab import paths
from lab.data.storage import Scale
from lab.models import backbone
from lab.models.backbone import Backbone, Head
from lab.models.layers import Built, Shape
from retrace.errors import ParamsError

MAX_REASON = 200  # characters of an error of timm's
N_NEAR = 5  # names in the message for an unknown one
WITH_DIGEST = re.compile(r"-[0-9a-f]{8,64}\.(pth|safetensors)$")  # a file's name


class Timm(Backbone):
    """One of timm's classifiers without its last layer."""

    library = "timm"

    def __init__(self, name: str, shape: Shape, head: Head) -> None:
        """Raises ParamsError if timm has no such classifier, or it takes no such images or head."""
        super().__init__()
        self.name = name
        self.config = _config(name)
        _check_size(name, self.config, shape)
        self.scale = Scale(*(_raw(values) for values in (self.config.mean, self.config.std)))
        self.last = self.config.classifier
        self.n_outputs = self.config.num_classes
        if head == "append" and not (isinstance(self.last, str) and self.n_outputs > 1):
            raise ParamsError(
                f"{paths.PARAMS}: models.timm.head is 'append'; "
                f"should be replace, because {name} has no single last layer"
            )
        network = _create(name, num_classes=0)
        self.network = network
        self.n_features = network.head_hidden_size
        backbone.make_deterministic(self.network)

    def address(self) -> str:
        if WITH_DIGEST.search(self.config.url or ""):
            return self.config.url
        others = [name for name in _tagged(self.name) if WITH_DIGEST.search(_url(name))]
        remedy = f"models.timm.name to one of {', '.join(others)}, or " if others else ""
        raise ParamsError(
            f"{paths.PARAMS}: pretrained is 'DEFAULT', but timm has no file with a digest for "
            f"{self.name}; set {remedy}pretrained to a file or none"
        )

    def renamed(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return timm's weights, also of an older version, which timm converts.

        Raises ParamsError if it cannot.
        """
        own = {
            name: tensor.shape
            for name, tensor in self.network.state_dict().items()
            if not name.endswith(".num_batches_tracked")
        }
        fits = all(name in weights and weights[name].shape == own[name] for name in own)
        if weights and (not fits or self.config.label_offset):
            weights = self._converted(weights)
        return super().renamed(weights)

    def _converted(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the weights under timm's names of today."""
        given = {"state_dict": dict(weights)}  # first among timm's sources: nothing is downloaded
        try:
            with torch.random.fork_rng():
                network = _create(self.name, pretrained=True, pretrained_cfg_overlay=given)
        except Exception as error:  # noqa: BLE001 - each of timm's networks converts in its own way
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:MAX_REASON]
            raise ParamsError(
                f"{paths.PARAMS}: the pretrained weights are not for this model: timm cannot "
                f"convert them for {self.name} ({reason}); choose the model of these weights"
            ) from None
        return network.state_dict()


def build(shape: Shape, n_classes: int, *, name: str, head: Head) -> Built:
    """Shapes: (batch, 3, height, width) -> the last layer's inputs -> (batch, n_classes)."""
    backbone.check_channels(name, shape)
    return Timm(name, shape, head).with_head(n_classes, head)


def _create(name: str, **settings: Any) -> Any:
    """Create a network without timm's warnings, which are about its other uses."""
    import timm

    with _quiet():
        return timm.create_model(name, **settings)


@contextmanager
def _quiet() -> Iterator[None]:
    logger = logging.getLogger("timm")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        logger.setLevel(level)


def _config(name: str) -> Any:
    """Return timm's configuration of a network and its weights. Raises ParamsError."""
    import timm

    known = timm.list_models()
    config = timm.get_pretrained_cfg(name) if name in known or name in _tagged(name) else None
    if config is None:
        near = difflib.get_close_matches(name, known, n=N_NEAR)
        hint = f"did you mean {' or '.join(near)}?" if near else "timm.list_models() has the names"
        raise ParamsError(
            f"{paths.PARAMS}: models.timm.name is {name!r}, "
            f"which is none of timm's {len(known):,} classifiers; {hint}"
        )
    return config


def _tagged(name: str) -> list[str]:
    """Return the names `architecture.tag` of all weights of a network's architecture."""
    import timm

    architecture = name.partition(".")[0]
    return timm.list_models(f"{architecture}.*", include_tags=True)


def _url(name: str) -> str:
    import timm

    return timm.get_pretrained_cfg_value(name, "url") or ""


def _check_size(name: str, config: Any, shape: Shape) -> None:
    """Raise ParamsError if the network takes images of one size, and these have another."""
    size = config.input_size[1:]
    if config.fixed_input_size and tuple(shape[1:]) != tuple(size):
        raise ParamsError(
            f"{paths.PARAMS}: models.timm.name is {name!r}, which takes images of "
            f"{size[0]} x {size[1]} pixels only, not {shape[1]} x {shape[2]}"
        )


def _raw(values: tuple[float, ...]) -> tuple[float, ...]:
    """Return values of 0..1 in units of a raw pixel, 0..255."""
    return tuple(255 * value for value in values)
