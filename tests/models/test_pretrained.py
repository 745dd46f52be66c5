"""Pretrained weights: torchvision's, our own, and files that are refused."""

import hashlib
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from configs import cats_and_dogs
from safetensors.torch import save_file

from lab import paths
from lab.models import classifier, pretrained
from lab.models.classifier import Classifier
from retrace.errors import ParamsError
from retrace.pipeline import params_yaml

SMALL = "squeezenet1_1"
OFFICIAL = "squeezenet1_1-b8a52dc0.pth"


@pytest.fixture
def small(values: params_yaml.Values) -> Classifier:
    torch.manual_seed(0)
    return classifier.build(cats_and_dogs(values, name=SMALL))


def name_after_digest(path: Path) -> str:
    """Rename a file after its digest, as `pretrained` requires, and return its name."""
    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:8]
    return path.rename(path.with_stem(f"{path.stem}-{digest}")).name


def torchvision_weights(name: str) -> dict[str, torch.Tensor]:
    from torchvision import models

    torch.manual_seed(1)
    return models.get_model(name).state_dict()


@pytest.fixture(scope="module")
def theirs() -> dict[str, torch.Tensor]:
    """Weights of torchvision's own network."""
    return torchvision_weights(SMALL)


def saved(weights: dict[str, Any], suffix: str) -> str:
    path = Path(f"weights{suffix}")
    save_file(weights, path) if suffix == ".safetensors" else torch.save(weights, path)
    return name_after_digest(path)


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_weights_are_loaded_into_the_backbone(
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
def test_appended_head_gets_the_last_layer(
    values: params_yaml.Values, theirs: dict[str, torch.Tensor]
) -> None:
    model = classifier.build(cats_and_dogs(values, name=SMALL, head="append"))
    pretrained.load_into(model, saved(theirs, ".pth"))
    assert torch.equal(
        model.state_dict()["head.0.weight"], theirs["classifier.1.weight"].flatten(1)
    )


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("name", "old"), [("resnet18", (r"^$", "")), ("densenet121", (r"(norm|conv)(\d)", r"\1.\2"))]
)
def test_old_torchvision_weights_fit(
    values: params_yaml.Values, name: str, old: tuple[str, str]
) -> None:
    """Without batch norm's counters; DenseNet's layers by another name."""
    model = classifier.build(cats_and_dogs(values, name=name))
    weights = {
        re.sub(*old, key) if "denselayer" in key else key: tensor
        for key, tensor in torchvision_weights(name).items()
        if not key.endswith("num_batches_tracked")
    }
    pretrained.load_into(model, saved(weights, ".pth"))
    last = next(reversed([key for key in weights if key.endswith("running_mean")]))
    assert any(torch.equal(tensor, weights[last]) for tensor in model.state_dict().values())


@pytest.mark.usefixtures("folder")
def test_own_weights_fit(values: params_yaml.Values, small: Classifier) -> None:
    classifier.save(small, cats_and_dogs(values, name=SMALL))
    torch.manual_seed(2)
    other = classifier.build(cats_and_dogs(values, name=SMALL))
    pretrained.load_into(other, f"models/{name_after_digest(paths.WEIGHTS)}")
    for name, weight in other.state_dict().items():
        assert torch.equal(weight, small.state_dict()[name])


class Trap:
    def __reduce__(self) -> Any:
        return (Path.touch, (Path("sprung"),))


def test_pickle_with_code_is_refused(folder: Path, small: Classifier) -> None:
    with pytest.raises(ParamsError, match=r"pretrained is 'weights-.*\.pth'"):
        pretrained.load_into(small, saved({"features.0.weight": Trap()}, ".pth"))
    assert not (folder / "sprung").exists()


@pytest.mark.parametrize("content", [b"", b"text", b"\x80\x04."])
@pytest.mark.parametrize("name", ["bad.pth", "bad.safetensors"])
def test_unreadable_weights_are_one_line(
    folder: Path, small: Classifier, name: str, content: bytes
) -> None:
    (folder / name).write_bytes(content)
    with pytest.raises(ParamsError, match="not a file of weights") as raised:
        pretrained.load_into(small, name_after_digest(folder / name))
    assert "\n" not in str(raised.value)


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("content", [{"state_dict": {}, "epoch": 3}, {"a": torch.zeros(1), "b": 2}])
def test_more_than_weights_is_refused(small: Classifier, content: dict[str, Any]) -> None:
    with pytest.raises(ParamsError, match="should contain named tensors"):
        pretrained.load_into(small, saved(content, ".pth"))


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("model", "reason"), [("cnn", "trunk.0.weight is missing"), ("softmax", "no name matches")]
)
def test_weights_of_other_networks_are_refused(
    values: params_yaml.Values, model: str, reason: str
) -> None:
    ours = classifier.build(cats_and_dogs(values, model))
    with pytest.raises(ParamsError, match=f"not for this model: {reason}"):
        pretrained.load_into(ours, saved({"layer.weight": torch.zeros(3)}, ".safetensors"))


@pytest.mark.usefixtures("folder")
def test_missing_file_is_named(small: Classifier) -> None:
    with pytest.raises(ParamsError, match="pretrained is 'no.pth': no such file"):
        pretrained.load_into(small, "no.pth")


@pytest.mark.usefixtures("folder")
def test_file_name_has_the_digest(small: Classifier, theirs: dict[str, torch.Tensor]) -> None:
    file = Path(saved(theirs, ".safetensors"))
    other = file.rename("weights-00000000.safetensors")
    new_name = rf"weights-00000000-{file.stem[-8:]}\.safetensors"
    with pytest.raises(ParamsError, match=new_name):
        pretrained.load_into(small, other.name)


@pytest.fixture
def cache(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache of DEFAULT weights; torchvision's address cannot be reached."""
    monkeypatch.setenv("RETRACE_CACHE", str(folder / "cache"))
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    return folder / "cache/weights"


def test_unreachable_default_names_the_path(cache: Path, small: Classifier) -> None:
    with pytest.raises(ParamsError, match=rf"put {OFFICIAL} at {cache}/{OFFICIAL}") as raised:
        pretrained.load_into(small, "DEFAULT")
    assert "\n" not in str(raised.value)
    assert not list(cache.glob("*"))


def test_default_with_other_digest_is_refused(
    cache: Path, small: Classifier, theirs: dict[str, torch.Tensor]
) -> None:
    cache.mkdir(parents=True)
    Path(saved(theirs, ".pth")).rename(cache / OFFICIAL)
    with pytest.raises(ParamsError, match="should end in the first digits of its SHA-256"):
        pretrained.load_into(small, "DEFAULT")


def test_default_is_loaded_from_the_cache(
    cache: Path, small: Classifier, theirs: dict[str, torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    from torchvision import models

    cache.mkdir(parents=True)
    file = Path(saved(theirs, ".pth"))
    file.rename(cache / file)
    published = {"DEFAULT": SimpleNamespace(url=f"https://example.org/models/{file}")}
    monkeypatch.setattr(models, "get_model_weights", {SMALL: published}.__getitem__)
    pretrained.load_into(small, "DEFAULT")
    assert torch.equal(
        small.state_dict()["trunk.network.features.0.weight"], theirs["features.0.weight"]
    )


def test_default_is_for_torchvision_networks(values: params_yaml.Values) -> None:
    model = classifier.build(cats_and_dogs(values, "cnn"))
    with pytest.raises(ParamsError, match="pretrained is 'DEFAULT'"):
        pretrained.load_into(model, "DEFAULT")
