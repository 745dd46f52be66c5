"""A network with the normalisation it was trained with: raw images in, logits out; saved and loaded without pickle."""

from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from retrace import paths
from retrace.errors import DataError
from retrace.models import MODELS
from retrace.params import Choice, Strict
from retrace.samples import Samples
from retrace.shapes import Features, Images, Logits
from retrace.splits import Scale


class Card(Strict):
    """All that it takes to build the network again and to read its output: models/model.json."""

    model: str
    settings: dict[str, Any]
    image: tuple[int, int, int]  # channels, height, width
    class_names: tuple[str, ...]
    mean: tuple[float, ...]  # by channel, in units of a raw pixel
    std: tuple[float, ...]


class Classifier(nn.Module):
    """`trunk` turns normalised images into features, `head` turns features into logits."""

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, trunk: nn.Module, head: nn.Module, scale: Scale) -> None:
        super().__init__()
        self.trunk = trunk
        self.head = head
        for name, values in (("mean", scale.mean), ("std", scale.std)):
            self.register_buffer(name, torch.tensor(values).view(-1, 1, 1), persistent=False)

    def features(self, images: Images) -> Features:
        normalised = (images.to(torch.float32) - self.mean) / self.std
        return self.trunk(normalised.contiguous(memory_format=torch.channels_last))

    def forward(self, images: Images) -> Logits:
        return self.head(self.features(images))


def card_of(model: Choice, samples: Samples, scale: Scale) -> Card:
    """The card of the chosen network for data like `samples`."""
    _, channels, height, width = samples.images.shape
    return Card(
        model=model.name,
        settings=model.settings,
        image=(channels, height, width),
        class_names=samples.class_names,
        mean=scale.mean,
        std=scale.std,
    )


def build(card: Card) -> Classifier:
    """The network of `card` with new weights, drawn from torch's generator; convolutions run channels last."""
    trunk, head = MODELS[card.model](card.image, len(card.class_names), **card.settings)
    return Classifier(trunk, head, Scale(card.mean, card.std)).to(memory_format=torch.channels_last)


def save(model: Classifier, card: Card) -> None:
    """The weights and the card are on disk; equal weights give equal bytes."""
    weights = {name: tensor.cpu().contiguous() for name, tensor in model.state_dict().items()}
    with paths.atomic(paths.WEIGHTS) as unfinished:
        save_file(weights, unfinished)
    with paths.atomic(paths.CARD) as unfinished:
        unfinished.write_text(card.model_dump_json(indent=2) + "\n", encoding="utf-8")


def load(weights: Path = paths.WEIGHTS, card: Path = paths.CARD) -> tuple[Classifier, Card]:
    """The trained network, in evaluation mode on the CPU, and its card. Raises DataError where they do not fit."""
    try:
        said = Card.model_validate_json(card.read_bytes())
        model = build(said)
        model.load_state_dict(load_file(weights))
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, safetensors.SafetensorError) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"{weights}, {card}: not a trained model: {reason}; `dvc repro train` makes one") from None
    return model.eval(), said


class Served(nn.Module):
    """What a user of the model calls: raw images in, a probability a class out."""

    def __init__(self, model: Classifier) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Images) -> Logits:
        return torch.softmax(self.model(images), dim=1)
