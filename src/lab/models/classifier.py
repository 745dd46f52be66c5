"""A network with its input normalization: raw inputs in, logits out. Saved without pickle."""

import copy
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from lab import paths
from lab.data import batches
from lab.data.samples import Samples
from lab.data.storage import Scale
from lab.models.backbone import IMAGENET
from lab.models.networks import MODELS
from lab.params import Choice, Scaling, Strict
from lab.shapes import Features, Inputs, Logits
from retrace.errors import DataError, ParamsError
from retrace.system import files


class ModelConfig(Strict):
    """Everything needed to rebuild the network and to name its outputs: models/model.json."""

    model: str
    settings: dict[str, Any]
    # Of what the network sees of an input: channels, height, width; or features.
    shape: tuple[int, ...]
    class_names: tuple[str, ...]
    mean: tuple[float, ...]  # by channel, in units of a raw pixel; or by feature
    std: tuple[float, ...]
    pretrained: str | None  # SHA-256 of the weights that training started from
    epoch: int  # the epoch of these weights, counted from 1
    # Length of an image's shorter edge before the center crop, in pixels; None: as in `shape`.
    resize: int | None = None


class Classifier(nn.Module):
    """A backbone, from normalized inputs to features, and a head, from features to logits.

    The backbone is called `trunk` here because saved weights have that name.
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(
        self, trunk: nn.Module, head: nn.Module, scale: Scale, shape: tuple[int, ...]
    ) -> None:
        super().__init__()
        self.trunk = trunk
        self.head = head
        self.shape = shape  # of an input
        self.trunk_is_frozen = False
        self.keeps_statistics = False  # the backbone's running ones, in training
        self._frozen: set[str] = set()  # the backbone's weights that `freeze_backbone` froze
        self.set_scale(scale, shape)

    def set_scale(self, scale: Scale, shape: tuple[int, ...]) -> None:
        """Set the scale of inputs of this shape."""
        for name, values in (("mean", scale.mean), ("std", scale.std)):
            by_channel = torch.tensor(values).view(-1, *(1 for _ in shape[1:]))
            self.register_buffer(name, by_channel, persistent=False)
        self._is_shifted = any(scale.mean)
        self._is_scaled = any(factor != 1 for factor in scale.std)

    def initialize(self, inputs: Inputs) -> None:
        """Initialize, from these inputs, the layers that are computed from data, not learned."""
        for layer in self.trunk.modules():
            initialize = getattr(layer, "initialize", None)
            if initialize:
                initialize(self.normalized(inputs))

    @property
    def needs_data(self) -> bool:
        """Whether a layer is initialized from data."""
        return any(hasattr(layer, "initialize") for layer in self.trunk.modules())

    def cropped(self, inputs: Inputs) -> torch.Tensor:
        """Return the center of images that are larger than the network's inputs."""
        is_larger = inputs.ndim == 4 and tuple(inputs.shape[2:]) > self.shape[1:]
        return batches.center(inputs, self.shape[1:]) if is_larger else inputs

    def normalized(self, inputs: Inputs) -> torch.Tensor:
        """Return normalized inputs, in a new tensor that layers may write to."""
        scaled = self.cropped(inputs).to(torch.float32)
        scaled = scaled - self.mean if self._is_shifted else scaled
        scaled = scaled / self.std if self._is_scaled else scaled
        if scaled.ndim == 4:
            scaled = scaled.contiguous(memory_format=torch.channels_last)
        return scaled.clone() if scaled is inputs else scaled

    def features(self, inputs: Inputs) -> Features:
        return self.trunk(self.normalized(inputs))

    def forward(self, inputs: Inputs) -> Logits:
        return self.head(self.features(inputs))

    def freeze_backbone(self) -> None:
        """Freeze the backbone's weights and running statistics: only the head is trained."""
        self.trunk_is_frozen = True
        self.keeps_statistics = True
        weights = self.trunk.named_parameters()
        self._frozen = {name for name, weight in weights if weight.requires_grad}
        self.trunk.requires_grad_(requires_grad=False)

    def frozen(self) -> list[nn.Parameter]:
        """Return the weights that `freeze_backbone` froze."""
        return [weight for name, weight in self.trunk.named_parameters() if name in self._frozen]

    def unfreeze_backbone(self) -> None:
        """Train the backbone's weights again, but keep its running statistics.

        Those of a few photos are worse than those of the data that the weights come from. Dropout
        inside the backbone stays off too.
        """
        self.trunk_is_frozen = False
        for weight in self.frozen():
            weight.requires_grad = True
        self._frozen = set()

    def head_alone(self) -> "Classifier":
        """Return a classifier of features that shares the head's weights."""
        unscaled = Scale((0.0,), (1.0,))
        return Classifier(nn.Identity(), self.head, unscaled, (1,)).to(self.mean.device)

    def train(self, mode: bool = True) -> "Classifier":
        super().train(mode)
        if self.keeps_statistics:
            self.trunk.eval()
        return self

    def trainable(self) -> list[nn.Parameter]:
        return [weight for weight in self.parameters() if weight.requires_grad]


def scale_of(
    scaling: Scaling, samples: Samples, measured: Scale, pretrained: Scale | None
) -> Scale:
    """Return the scale of inputs.

    `measured` is the train split's, `pretrained` that of the pretrained weights' inputs, if there
    is one. Raises ParamsError if it does not fit the inputs, or there is none.
    """
    n = len(measured.mean)
    if scaling in ("imagenet", "pretrained"):
        chosen = IMAGENET if scaling == "imagenet" else pretrained
        problem = f"{paths.PARAMS}: scaling is {scaling!r}; should be standard or unit: "
        if not samples.are_images or n != len(IMAGENET.mean):
            raise ParamsError(f"{problem}the inputs have {n} channels, not three")
        if chosen is None:
            raise ParamsError(f"{problem}only torchvision's and timm's networks have one")
        return chosen
    if scaling == "unit":
        return Scale((0.0,) * n, (255.0 if samples.are_images else 1.0,) * n)
    return measured


def config_of(model: Choice, samples: Samples, scale: Scale) -> ModelConfig:
    """Return the config of the chosen network for data like `samples`, before training."""
    return ModelConfig(
        model=model.name,
        settings=model.settings,
        shape=samples.inputs.shape[1:],
        class_names=samples.class_names,
        mean=scale.mean,
        std=scale.std,
        pretrained=None,
        epoch=0,
        resize=samples.resize,
    )


def build(config: ModelConfig) -> Classifier:
    """Build a network with new weights, drawn from torch's generator, in channels-last format.

    Raises ParamsError if the network does not take inputs of that shape.
    """
    try:
        trunk, head = MODELS[config.model](config.shape, len(config.class_names), **config.settings)
        model = Classifier(trunk, head, Scale(config.mean, config.std), config.shape).eval()
        with torch.no_grad():
            model(example(config, 1))
    except (ValueError, RuntimeError, AssertionError, IndexError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ParamsError(
            f"{paths.PARAMS}: model is {config.model!r}, "
            f"which does not take inputs of shape {config.shape}: {reason}"
        ) from None
    return model.to(memory_format=torch.channels_last)


def takes_one(model: Classifier, config: ModelConfig) -> bool:
    """Return whether the whole model can be trained with one sample; batch norm may fail."""
    trained = copy.deepcopy(model)
    with torch.no_grad(), torch.random.fork_rng():
        try:
            trained.train()(example(config, 1))
        except ValueError:
            return False
    return True


def example(config: ModelConfig, n: int) -> Inputs:
    """Return `n` inputs of the type that the network takes, all zeros."""
    kind = torch.uint8 if len(config.shape) == 3 else torch.float32
    return torch.zeros(n, *config.shape, dtype=kind)


def save(model: Classifier, config: ModelConfig) -> None:
    """Write weights and config; equal weights give equal bytes."""
    weights = {name: tensor.cpu().contiguous() for name, tensor in model.state_dict().items()}
    with files.atomic(paths.WEIGHTS) as unfinished:
        save_file(weights, unfinished)
    with files.atomic(paths.MODEL_CONFIG) as unfinished:
        unfinished.write_text(
            config.model_dump_json(indent=2, exclude_defaults=True) + "\n", encoding="utf-8"
        )


def load(
    weights: Path = paths.WEIGHTS, config_file: Path = paths.MODEL_CONFIG
) -> tuple[Classifier, ModelConfig]:
    """Return the trained network, in evaluation mode on the CPU, and its config.

    Raises DataError if they cannot be loaded or do not fit.
    """
    try:
        config = ModelConfig.model_validate_json(config_file.read_bytes())
        model = build(config)
        model.load_state_dict(load_file(weights))
    except (
        OSError,
        ValueError,
        KeyError,
        TypeError,
        RuntimeError,
        ParamsError,
        SafetensorError,
    ) as error:
        reason = " ".join(str(error).split())
        raise DataError(
            f"{weights}, {config_file}: not a trained model: {reason}; `dvc repro train` makes one"
        ) from None
    return model.eval(), config


class Served(nn.Module):
    """The model as it is served: raw inputs in, a probability for each class out."""

    def __init__(self, model: Classifier) -> None:
        super().__init__()
        self.model = model

    def forward(self, inputs: Inputs) -> Logits:
        return torch.softmax(self.model(inputs), dim=1)
