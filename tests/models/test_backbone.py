"""torchvision's networks behind our head, and weights from elsewhere."""

import hashlib
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from lab import paths
from lab.models import backbone, classifier, pretrained
from lab.models.classifier import Card, Classifier
from lab.models.layers import AveragePool
from retrace.errors import ParamsError
from retrace.pipeline import params_file

SMALL, OFFICIAL = "squeezenet1_1", "squeezenet1_1-b8a52dc0.pth"


def card(values: params_file.Values, model: str = "torchvision", **settings: Any) -> Card:
    return Card(
        model=model,
        settings=values["models"][model] | settings,
        shape=(3, 40, 40),
        class_names=("cat", "dog"),
        mean=(0.0,) * 3,
        std=(255.0,) * 3,
        pretrained=None,
        epoch=0,
    )


@pytest.mark.parametrize("side", [(1, 1), (6, 6), (7, 7)])
@pytest.mark.parametrize("n", [1, 5, 7, 13, 14])
def test_the_average_pool_is_torch_s(side: tuple[int, int], n: int) -> None:
    maps = torch.randn(2, 3, n, n + 2, requires_grad=True)
    ours, theirs = AveragePool(side)(maps), nn.AdaptiveAvgPool2d(side)(maps)
    torch.testing.assert_close(ours, theirs)
    first, second = (torch.autograd.grad(made.square().sum(), maps)[0] for made in (ours, theirs))
    torch.testing.assert_close(first, second)


FAMILIES = (
    *(
        "alexnet",
        "convnext_tiny",
        "densenet121",
        "efficientnet_b0",
        "googlenet",
        "inception_v3",
        "maxvit_t",
    ),
    *(
        "mnasnet0_5",
        "mobilenet_v2",
        "mobilenet_v3_small",
        "regnet_x_400mf",
        "resnet18",
        "resnext50_32x4d",
    ),
    *(
        "shufflenet_v2_x0_5",
        "squeezenet1_1",
        "swin_t",
        "swin_v2_t",
        "vgg11_bn",
        "vgg16",
        "vit_b_32",
        "wide_resnet50_2",
    ),
)


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_has_a_trunk_and_a_head_for_our_classes(name: str) -> None:
    # Shapes alone: the weights would be gigabytes. RegNet computes its own widths with tensors.
    with torch.device("cpu" if name.startswith("regnet") else "meta"):
        trunk, head = backbone.build(name, (3, 224, 224), 5, "replace")
        assert head(trunk.eval()(torch.empty(2, 3, 224, 224))).shape == (2, 5)


def test_a_head_is_replaced_or_appended(values: params_file.Values) -> None:
    replaced, appended = (
        classifier.build(card(values, name="squeezenet1_1", head=head))
        for head in ("replace", "append")
    )
    assert isinstance(replaced.head, nn.Linear)
    assert (replaced.head.in_features, replaced.head.out_features) == (512, 2)
    assert isinstance(appended.head, nn.Sequential)
    assert [layer.weight.shape for layer in appended.head] == [(1000, 512), (2, 1000)]


def test_grey_images_are_taken_as_coloured(values: params_file.Values) -> None:
    torch.manual_seed(0)
    coloured = classifier.build(card(values, name="squeezenet1_1"))
    grey = torch.randint(0, 256, (2, 1, 40, 40), dtype=torch.uint8)
    same = (grey.float() / 255).expand(-1, 3, -1, -1)
    torch.testing.assert_close(
        coloured.trunk.forward(grey.float() / 255), coloured.trunk.forward(same)
    )


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"name": "resnet19"}, "models.torchvision.name is 'resnet19'; should be one of alexnet, "),
        (
            {"name": "vit_b_32"},
            r"model is 'torchvision', which takes no inputs of shape \(3, 40, 40\): Wrong image",
        ),
    ],
)
def test_a_network_that_is_not_there_or_does_not_fit_is_one_line(
    values: params_file.Values, changed: dict[str, str], said: str
) -> None:
    with pytest.raises(ParamsError, match=said) as raised:
        classifier.build(card(values, **changed))
    assert "\n" not in str(raised.value)


@pytest.fixture
def small(values: params_file.Values) -> Classifier:
    torch.manual_seed(0)
    return classifier.build(card(values, name=SMALL))


def named(path: Path) -> str:
    """The file's name with its digest in it, as `pretrained` asks for."""
    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:8]
    return path.rename(path.with_stem(f"{path.stem}-{digest}")).name


def torchvision_s(name: str) -> dict[str, torch.Tensor]:
    from torchvision import models

    torch.manual_seed(1)
    return models.get_model(name).state_dict()


@pytest.fixture(scope="module")
def theirs() -> dict[str, torch.Tensor]:
    """Weights of torchvision's own network."""
    return torchvision_s(SMALL)


def saved(weights: dict[str, Any], suffix: str) -> str:
    path = Path(f"weights{suffix}")
    save_file(weights, path) if suffix == ".safetensors" else torch.save(weights, path)
    return named(path)


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_torchvision_s_weights_become_the_trunk_s_and_the_head_stays_new(
    small: Classifier, theirs: dict[str, torch.Tensor], suffix: str
) -> None:
    before = small.state_dict()["head.weight"].clone()
    file = saved(theirs, suffix)
    assert pretrained.load_into(small, file) == hashlib.sha256(Path(file).read_bytes()).hexdigest()
    assert torch.equal(
        small.state_dict()["trunk.network.features.0.weight"], theirs["features.0.weight"]
    )
    assert torch.equal(small.state_dict()["head.weight"], before)


@pytest.mark.usefixtures("folder")
def test_an_appended_head_begins_with_torchvision_s_last_layer(
    values: params_file.Values, theirs: dict[str, torch.Tensor]
) -> None:
    model = classifier.build(card(values, name=SMALL, head="append"))
    pretrained.load_into(model, saved(theirs, ".pth"))
    assert torch.equal(
        model.state_dict()["head.0.weight"], theirs["classifier.1.weight"].flatten(1)
    )


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("name", "old"), [("resnet18", (r"^$", "")), ("densenet121", (r"(norm|conv)(\d)", r"\1.\2"))]
)
def test_weights_as_torchvision_published_them_years_ago_fit(
    values: params_file.Values, name: str, old: tuple[str, str]
) -> None:
    """Without batch norm's counters; DenseNet's layers by another name."""
    model = classifier.build(card(values, name=name))
    weights = {
        re.sub(*old, key) if "denselayer" in key else key: tensor
        for key, tensor in torchvision_s(name).items()
        if not key.endswith("num_batches_tracked")
    }
    pretrained.load_into(model, saved(weights, ".pth"))
    last = next(reversed([key for key in weights if key.endswith("running_mean")]))
    assert any(torch.equal(tensor, weights[last]) for tensor in model.state_dict().values())


@pytest.mark.usefixtures("folder")
def test_our_own_weights_are_a_start_too(values: params_file.Values, small: Classifier) -> None:
    classifier.save(small, card(values, name=SMALL))
    torch.manual_seed(2)
    other = classifier.build(card(values, name=SMALL))
    pretrained.load_into(other, f"models/{named(paths.WEIGHTS)}")
    for name, weight in other.state_dict().items():
        assert torch.equal(weight, small.state_dict()[name])


class Trap:
    def __reduce__(self) -> Any:
        return (Path.touch, (Path("sprung"),))


def test_a_file_that_would_run_code_is_refused_and_does_not(
    folder: Path, small: Classifier
) -> None:
    with pytest.raises(
        ParamsError, match=r"pretrained is 'weights-.*\.pth': not a file of weights"
    ):
        pretrained.load_into(small, saved({"features.0.weight": Trap()}, ".pth"))
    assert not (folder / "sprung").exists()


@pytest.mark.parametrize("content", [b"", b"text", b"\x80\x04."])
@pytest.mark.parametrize("name", ["bad.pth", "bad.safetensors"])
def test_what_is_no_file_of_weights_is_one_line(
    folder: Path, small: Classifier, name: str, content: bytes
) -> None:
    (folder / name).write_bytes(content)
    with pytest.raises(ParamsError, match="not a file of weights") as raised:
        pretrained.load_into(small, named(folder / name))
    assert "\n" not in str(raised.value)


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("content", [{"state_dict": {}, "epoch": 3}, {"a": torch.zeros(1), "b": 2}])
def test_a_checkpoint_with_more_than_weights_is_refused(
    small: Classifier, content: dict[str, Any]
) -> None:
    with pytest.raises(ParamsError, match="should hold named tensors and nothing else"):
        pretrained.load_into(small, saved(content, ".pth"))


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("model", "said"), [("cnn", "trunk.0.weight is missing"), ("softmax", "no name or shape is")]
)
def test_another_network_s_weights_are_refused(
    values: params_file.Values, model: str, said: str
) -> None:
    ours = classifier.build(card(values, model))
    with pytest.raises(ParamsError, match=f"are not this model's: {said}"):
        pretrained.load_into(ours, saved({"layer.weight": torch.zeros(3)}, ".safetensors"))


@pytest.mark.usefixtures("folder")
def test_a_missing_file_is_named(small: Classifier) -> None:
    with pytest.raises(ParamsError, match="pretrained is 'no.pth': no such file"):
        pretrained.load_into(small, "no.pth")


@pytest.mark.usefixtures("folder")
def test_a_file_s_name_says_which_bytes_it_has(
    small: Classifier, theirs: dict[str, torch.Tensor]
) -> None:
    file = Path(saved(theirs, ".safetensors"))
    other = file.rename("weights-00000000.safetensors")
    with pytest.raises(
        ParamsError, match=rf"rename it to weights-00000000-{file.stem[-8:]}\.safetensors"
    ):
        pretrained.load_into(small, other.name)


@pytest.fixture
def place(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where DEFAULT looks first; nothing is behind torchvision's address."""
    monkeypatch.setenv("RETRACE_CACHE", str(folder / "cache"))
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    return folder / "cache/weights"


def test_default_weights_that_cannot_be_had_say_where_to_put_the_file(
    place: Path, small: Classifier
) -> None:
    with pytest.raises(ParamsError, match=rf"put {OFFICIAL} at {place}/{OFFICIAL}") as raised:
        pretrained.load_into(small, "DEFAULT")
    assert "\n" not in str(raised.value)
    assert not list(place.glob("*"))


def test_default_weights_with_another_digest_are_refused(
    place: Path, small: Classifier, theirs: dict[str, torch.Tensor]
) -> None:
    place.mkdir(parents=True)
    Path(saved(theirs, ".pth")).rename(place / OFFICIAL)
    with pytest.raises(ParamsError, match="should end in its SHA-256's first digits"):
        pretrained.load_into(small, "DEFAULT")


def test_default_weights_that_are_there_are_taken(
    place: Path, small: Classifier, theirs: dict[str, torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    from torchvision import models

    place.mkdir(parents=True)
    file = Path(saved(theirs, ".pth"))
    file.rename(place / file)
    published = {"DEFAULT": SimpleNamespace(url=f"https://example.org/models/{file}")}
    monkeypatch.setattr(models, "get_model_weights", {SMALL: published}.__getitem__)
    pretrained.load_into(small, "DEFAULT")
    assert torch.equal(
        small.state_dict()["trunk.network.features.0.weight"], theirs["features.0.weight"]
    )


def test_default_is_for_torchvision_s_networks(values: params_file.Values) -> None:
    model = classifier.build(card(values, "cnn"))
    with pytest.raises(ParamsError, match="'DEFAULT', which torchvision's models have"):
        pretrained.load_into(model, "DEFAULT")


def test_one_sample_at_a_time_is_too_few_for_batch_norm_of_single_pixels(
    values: params_file.Values,
) -> None:
    fits = {name: card(values, name=name) for name in (SMALL, "resnet18")}
    taken = {
        name: classifier.takes_one(classifier.build(said), said) for name, said in fits.items()
    }
    assert taken == {SMALL: True, "resnet18": True}
    tiny = fits["resnet18"].model_copy(update={"shape": (3, 32, 32)})
    assert not classifier.takes_one(classifier.build(tiny), tiny)
