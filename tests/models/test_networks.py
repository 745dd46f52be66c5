"""Networks, and the classifier around them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from lab import params, paths
from lab.data import storage
from lab.data.samples import Samples
from lab.data.storage import Scale
from lab.models import backbone, classifier, layers
from lab.models.networks import MODELS, cnn, mlp
from retrace.errors import DataError, ParamsError
from retrace.pipeline import params_yaml

SHAPES = {"vgg16": (1, 32, 32)}  # the smallest that it takes


def config_of(values: params_yaml.Values, model: str) -> classifier.ModelConfig:
    return classifier.ModelConfig(
        model=model,
        settings=values["models"][model],
        shape=SHAPES.get(model, (1, 28, 28)),
        class_names=tuple("0123456789"),
        mean=(33.0,),
        std=(78.0,),
        pretrained=None,
        epoch=1,
    )


def images_of(n: int, model: str = "cnn") -> torch.Tensor:
    shape = (n, *SHAPES.get(model, (1, 28, 28)))
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)


def test_every_model_has_valid_settings(values: params_yaml.Values) -> None:
    assert set(params.bind_all(MODELS, values["models"], "models")) == set(MODELS)


@pytest.mark.parametrize("name", MODELS)
def test_models_give_flat_features_and_logits(values: params_yaml.Values, name: str) -> None:
    model = classifier.build(config_of(values, name))
    features = model.features(images_of(3, name))
    assert features.ndim == 2
    assert model(images_of(3, name)).shape == (3, 10)
    torch.testing.assert_close(model.head(features), model(images_of(3, name)))


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("name", sorted(set(MODELS) - {"vgg16"}))  # it has half a gigabyte
def test_saved_model_is_loaded(values: params_yaml.Values, name: str) -> None:
    config = config_of(values, name)
    files: list[bytes] = []
    model = classifier.build(config)
    for _ in range(2):
        torch.manual_seed(1)
        model = classifier.build(config)
        classifier.save(model, config)
        files.append(paths.WEIGHTS.read_bytes() + paths.MODEL_CONFIG.read_bytes())
    loaded, loaded_config = classifier.load()
    assert files[0] == files[1]
    assert loaded_config == config
    assert torch.equal(loaded(images_of(2, name)), model.eval()(images_of(2, name)))


class Tutorial(nn.Module):
    """The network as the tutorial writes it: ReLU before pooling (tutorial 000)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 16, 5, 1, 2)
        self.conv2 = nn.Conv2d(16, 32, 5, 1, 2)
        self.fc1 = nn.Linear(32 * 7 * 7, 128)
        self.fc2 = nn.Linear(128, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        return self.fc2(F.relu(self.fc1(x.view(x.size(0), -1))))


def test_cnn_equals_the_tutorial(values: params_yaml.Values) -> None:
    theirs = Tutorial()
    trunk, head = cnn.build((1, 28, 28), 10, **values["models"]["cnn"])
    ours = nn.Sequential(trunk, head)
    ours.load_state_dict(dict(zip(ours.state_dict(), theirs.state_dict().values(), strict=True)))
    images = torch.randn(8, 1, 28, 28)
    assert torch.equal(ours(images), theirs(images))
    assert sum(weight.numel() for weight in ours.parameters()) == 215_370


N_WEIGHTS = {  # by model, channels and side; counted by hand from the tutorials' layers
    ("softmax", 1, 28): 7_850,
    ("softmax_scratch", 1, 28): 7_850,
    ("lenet", 1, 28): 6 * 26 + 16 * 151 + 120 * 401 + 84 * 121 + 850,
    ("cifar_simple", 3, 32): 32 * 76 + 32 * 801 + 64 * 801 + 64 * 1025 + 650,
    ("cifar_v3", 3, 32): 32 * (28 + 289)
    + 64 * (289 + 577)
    + 128 * (577 + 1153)
    + 4 * 224
    + 64 * 2049
    + 650,
}


@pytest.mark.parametrize(("name", "channels", "side"), N_WEIGHTS)
def test_networks_have_tutorials_weights(
    values: params_yaml.Values, name: str, channels: int, side: int
) -> None:
    trunk, head = MODELS[name]((channels, side, side), 10, **values["models"][name])
    n = sum(weight.numel() for layer in (trunk, head) for weight in layer.parameters())
    assert n == N_WEIGHTS[name, channels, side]


def whitened(
    values: params_yaml.Values, images: torch.Tensor, **settings: object
) -> classifier.Classifier:
    config = config_of(values, "airbench")
    model = classifier.build(
        config.model_copy(update={"shape": (3, 32, 32), "settings": config.settings | settings})
    )
    model.initialize(images)
    return model


def test_airbench_whitens_patches(
    values: params_yaml.Values,
) -> None:
    noise = torch.randint(0, 256, (200, 3, 33, 33))
    correlated = (noise[..., 1:, 1:] + noise[..., :-1, :-1]) / 2
    images = correlated.to(torch.uint8)
    model = whitened(values, images)
    layer: Any = model.trunk.whitening
    normalized = model.normalized(images)
    outputs = (layer.convolution(normalized) - layer.convolution.bias[:, None, None]).detach()
    assert torch.allclose(moments(outputs[:, :12]), torch.eye(12), atol=0.01)
    assert not torch.allclose(moments(nn.functional.unfold(normalized, 2)), torch.eye(12), atol=0.2)
    assert torch.allclose(outputs[:, :12], -outputs[:, 12:], atol=1e-5)
    assert not layer.convolution.weight.requires_grad


def moments(values: torch.Tensor) -> torch.Tensor:
    """Return the second moments of the channels (axis 1)."""
    rows = values.transpose(0, 1).flatten(1)
    return rows @ rows.T / rows.shape[1]


@pytest.mark.parametrize("views", [1, 2, 6])
def test_airbench_averages_views_in_evaluation(values: params_yaml.Values, views: int) -> None:
    images = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8)
    model = whitened(values, images, views=views)
    single, mirrored = (whitened(values, images, views=n) for n in (1, 2))
    for other in single, mirrored:
        other.load_state_dict(model.state_dict())
    assert torch.allclose(model(images), model(images.flip(3)), atol=1e-6) == (views == 2)
    near = nn.functional.pad(images.float(), (1, 1, 1, 1), mode="reflect").to(torch.uint8)
    moved = (mirrored(near[..., :-2, :-2]) + mirrored(near[..., 2:, 2:])) / 2
    expected = {1: single(images), 2: mirrored(images), 6: (mirrored(images) + moved) / 2}
    assert torch.allclose(model(images), expected[views], atol=1e-5)
    assert len({tuple(logits.flatten().tolist()) for logits in expected.values()}) == 3
    model.train()
    assert not torch.allclose(model(images), model(images.flip(3)), atol=1e-3)


def test_airbench_norm_learns_biases_only(
    values: params_yaml.Values,
) -> None:
    images = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8)
    model = whitened(values, images).train()
    trunk: Any = model.trunk
    norm = trunk.blocks[3]
    plain = nn.BatchNorm2d(64).train()
    maps = torch.randn(4, 64, 5, 5)
    layers: list[Any] = [norm, plain]
    for layer in layers:
        (layer(maps) ** 3).sum().backward()
        with torch.no_grad():
            layer.bias -= 0.001 * layer.bias.grad
    assert norm.weight.grad is None
    assert torch.allclose(
        norm(maps).mean((0, 2, 3)), 64 * plain(maps).mean((0, 2, 3)), rtol=0.01, atol=1e-4
    )


def test_airbench_has_the_papers_weights(values: params_yaml.Values) -> None:
    model = whitened(values, torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8))
    n_weights = sum(weight.numel() for weight in model.parameters())
    n_convolutions = 9 * (24 * 64 + 64 * 64 + 64 * 256 + 3 * 256 * 256)
    assert n_weights == 24 * 13 + n_convolutions + 4 * (64 + 2 * 256) + 2560


def test_initialize_changes_no_learned_layer(values: params_yaml.Values) -> None:
    model = classifier.build(config_of(values, "cnn"))
    before = [weight.clone() for weight in model.parameters()]
    model.initialize(images_of(4))
    assert all(map(torch.equal, before, model.parameters()))


PAIR = [*2 * ["Conv2d", "ReLU", "BatchNorm2d"], "MaxPool"]  # the tutorial's order
LAYERS = {
    "lenet": ["ZeroPad2d", *2 * ["Conv2d", "MaxPool", "ReLU"], "Flatten", *2 * ["Linear", "ReLU"]],
    "cifar_simple": [*3 * ["Conv2d", "MaxPool", "Identity"], "Flatten", "Linear", "Identity"],
    "cifar_v3": [*3 * PAIR, "Flatten", "Dropout", "Linear", "ReLU", "Dropout"],
}


@pytest.mark.parametrize("name", LAYERS)
def test_networks_have_tutorials_layers(values: params_yaml.Values, name: str) -> None:
    trunk, head = MODELS[name]((3, 32, 32), 10, **values["models"][name])
    assert [type(layer).__name__ for layer in trunk.children()] == LAYERS[name]
    assert isinstance(head, nn.Linear)


@pytest.mark.parametrize("activation", ["relu", "none"])
def test_mlp_without_activation_is_linear(activation: layers.Activation) -> None:
    trunk, head = mlp.build((2,), 2, hidden=[8, 4], activation=activation)
    network = nn.Sequential(trunk, head)
    x, y = torch.randn(2, 50, 2)
    is_affine = torch.allclose(network((x + y) / 2), (network(x) + network(y)) / 2, atol=1e-6)
    assert is_affine == (activation == "none")


@pytest.mark.parametrize("shape", [(2,), (1, 4, 4)])
@pytest.mark.parametrize("name", ["cnn", "cifar_simple", "cifar_v3", "vgg16"])
def test_unfit_inputs_are_one_line(
    values: params_yaml.Values, name: str, shape: tuple[int, ...]
) -> None:
    config = config_of(values, name).model_copy(update={"shape": shape})
    if (name, shape) == ("cnn", (1, 4, 4)):
        assert classifier.build(config)
        return
    with pytest.raises(ParamsError, match=name) as raised:
        classifier.build(config)
    assert "\n" not in str(raised.value)


def test_scaling_is_as_named(stripes: Samples) -> None:
    measured = storage.scale(stripes)
    flat = Samples(np.zeros((3, 2), np.float32), np.zeros(3, np.int64), ("a",))
    color = Samples(np.zeros((3, 3, 8, 8), np.uint8), np.zeros(3, np.int64), ("a",))
    of_color = storage.scale(color)
    theirs = Scale((127.0,) * 3, (128.0,) * 3)
    assert classifier.scale_of("standard", stripes, measured, None) == measured
    assert classifier.scale_of("unit", stripes, measured, None) == Scale((0.0,), (255.0,))
    assert classifier.scale_of("unit", flat, storage.scale(flat), None) == Scale(
        (0.0, 0.0), (1.0, 1.0)
    )
    assert classifier.scale_of("imagenet", color, of_color, None).mean[0] == 123.675
    assert classifier.scale_of("pretrained", color, of_color, theirs) == theirs


@pytest.mark.parametrize("scaling", ["imagenet", "pretrained"])
def test_scaling_of_color_needs_color(stripes: Samples, scaling: params.Scaling) -> None:
    with pytest.raises(ParamsError, match=f"scaling is '{scaling}'.* 1 channels, not three"):
        classifier.scale_of(scaling, stripes, storage.scale(stripes), backbone.IMAGENET)


def test_scaling_as_pretrained_needs_one() -> None:
    color = Samples(np.zeros((3, 3, 8, 8), np.uint8), np.zeros(3, np.int64), ("a",))
    with pytest.raises(ParamsError, match="scaling is 'pretrained'.*only torchvision's and timm's"):
        classifier.scale_of("pretrained", color, storage.scale(color), None)


def test_even_kernel_is_refused(values: params_yaml.Values) -> None:
    settings = values["models"]["cnn"] | {"kernel_size": 4}
    with pytest.raises(ParamsError, match="models.cnn.kernel_size is 4; should be odd"):
        params.bind(MODELS, params.Choice(name="cnn", settings=settings), "models")


def test_inplace_layers_keep_the_inputs() -> None:
    inputs = torch.tensor([[-1.0, 2.0]])
    model = classifier.Classifier(
        nn.ReLU(inplace=True), nn.Identity(), Scale((0.0, 0.0), (1.0, 1.0)), (2,)
    )
    assert model(inputs).tolist() == [[0.0, 2.0]]
    assert inputs.tolist() == [[-1.0, 2.0]]


def test_classifier_normalizes_its_inputs(values: params_yaml.Values) -> None:
    model = classifier.build(config_of(values, "softmax"))
    expected = model.head((images_of(4).float().flatten(1) - 33) / 78)
    torch.testing.assert_close(model(images_of(4)), expected)


def test_served_model_gives_probabilities(values: params_yaml.Values) -> None:
    served = classifier.Served(classifier.build(config_of(values, "cnn")))
    np.testing.assert_allclose(served(images_of(5)).sum(dim=1).detach(), 1, rtol=1e-6)


@pytest.mark.parametrize(
    "damage", ["cut", "missing", "other network", "no config", "unknown model"]
)
def test_damaged_model_is_refused(folder: Path, values: params_yaml.Values, damage: str) -> None:
    config = config_of(values, "cnn")
    classifier.save(classifier.build(config), config)
    if damage == "cut":
        paths.WEIGHTS.write_bytes(paths.WEIGHTS.read_bytes()[:-10])
    elif damage == "missing":
        paths.WEIGHTS.unlink()
    elif damage == "no config":
        paths.MODEL_CONFIG.write_text("{}")
    elif damage == "other network":
        classifier.save(classifier.build(config_of(values, "softmax")), config)
    else:
        paths.MODEL_CONFIG.write_text(paths.MODEL_CONFIG.read_text().replace('"cnn"', '"resnet"'))
    with pytest.raises(DataError, match="dvc repro train"):
        classifier.load()
