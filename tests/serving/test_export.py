"""`retrace export`: every format computes the network's logits, without this repository."""

import dataclasses
import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from configs import cats_and_dogs
from PIL import Image
from safetensors.torch import load_file

from lab import paths
from lab.cli import export as command
from lab.data import decoding, storage
from lab.data.samples import Samples
from lab.models import classifier
from lab.models.classifier import ModelConfig
from lab.serving import export
from lab.serving.export import Source
from lab.serving.formats import FORMATS
from retrace.errors import DataError, RetraceError
from retrace.pipeline import params_yaml

# The example in a process that can import neither package.
ALONE = """
import runpy, sys
sys.modules |= {"lab": None, "retrace": None}
sys.path.insert(0, sys.argv[1])
del sys.argv[0]
runpy.run_path(f"{sys.path[0]}/example.py", run_name="__main__")
"""


def built(config: ModelConfig) -> Source:
    torch.manual_seed(0)
    return Source(classifier.build(config), config, None)


def predicted(folder: Path, *words: str) -> list[list[str]]:
    """Return what the example prints, as words."""
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    line = [sys.executable, "-c", ALONE, str(folder), *words]
    done = subprocess.run(line, env=env, capture_output=True, text=True, check=True, cwd="/")
    return [line.split() for line in done.stdout.splitlines()]


@pytest.mark.slow
@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("channels", [1, 3])
def test_example_predicts_without_this_code(
    folder: Path, config_of: Callable[[str, int], ModelConfig], kind: str, channels: int
) -> None:
    names = ('it\'s "a"', "b")
    config = config_of("cnn", 20).model_copy(
        update={
            "resize": 24,
            "class_names": names,
            "shape": (channels, 20, 20),
            "mean": (33.0,) * channels,
            "std": (78.0,) * channels,
        }
    )
    source = built(config)
    photo = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8))
    photo.save(folder / "photo.png")
    checked = export.export(source, kind, folder / "out", force=False)
    assert checked.is_equal
    inputs = decoding.pixels((folder / "photo.png").read_bytes(), config.shape, 24)
    with torch.no_grad():
        expected = torch.softmax(built(config).model(torch.tensor(inputs[None])), 1)[0]
    ((path, *name, probability),) = predicted(folder / "out", str(folder / "photo.png"))
    assert path == str(folder / "photo.png")
    assert " ".join(name) == names[int(expected.argmax())]
    assert float(probability) == pytest.approx(float(expected.max()), abs=1e-4)
    described = json.loads((folder / "out/model.json").read_text())
    weights = (folder / "out" / described["file"]).read_bytes()
    assert described["sha256"] == hashlib.sha256(weights).hexdigest()
    assert described["class_names"] == list(names)
    assert (described["shape"], described["resize"]) == ([channels, 20, 20], 24)
    assert len((folder / "out/example.py").read_text().splitlines()) <= 30
    assert sorted(file.name for file in folder.iterdir() if file.name.startswith(".")) == []


@pytest.mark.slow
@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize(
    ("name", "side", "settings"),
    [
        ("softmax", 8, {}),
        ("softmax_scratch", 8, {}),
        ("mlp", 8, {}),
        ("lenet", 28, {}),
        ("cifar_simple", 16, {}),
        ("cifar_v3", 16, {}),
        ("airbench", 16, {"widths": [8], "views": 6}),
    ],
)
def test_each_network_has_each_format(
    folder: Path,
    config_of: Callable[[str, int], ModelConfig],
    kind: str,
    name: str,
    side: int,
    settings: dict[str, object],
) -> None:
    config = config_of(name, side)
    source = built(config.model_copy(update={"settings": config.settings | settings}))
    if (name, kind) == ("airbench", "safetensors"):
        with pytest.raises(DataError, match=r"airbench .*; use onnx or pt2"):
            export.export(source, kind, folder / "out", force=False)
        assert not (folder / "out").exists()
        return
    assert export.export(source, kind, folder / "out", force=False).is_equal


@pytest.mark.slow
@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize(
    ("library", "name", "head", "channels"),
    [
        ("torchvision", "resnet18", "replace", 1),
        ("torchvision", "squeezenet1_1", "append", 3),
        ("timm", "efficientnet_lite0", "replace", 1),
    ],
)
def test_library_has_each_format(
    folder: Path,
    values: params_yaml.Values,
    kind: str,
    library: str,
    name: str,
    head: str,
    channels: int,
) -> None:
    config = cats_and_dogs(values, library, name=name, head=head)
    scale = {"mean": (9.0,) * channels, "std": (78.0,) * channels}
    config = config.model_copy(update={"shape": (channels, 40, 40), **scale})
    assert export.export(built(config), kind, folder / "out", force=False).is_equal


def test_features_are_exported(folder: Path, config_of: Callable[[str, int], ModelConfig]) -> None:
    flat = {"shape": (2,), "mean": (0.0, 1.0), "std": (1.0, 2.0)}
    source = built(config_of("mlp", 8).model_copy(update=flat))
    checked = export.export(source, "safetensors", folder / "out", force=False)
    assert (checked.is_equal, checked.samples) == (True, "100 random inputs")
    with torch.no_grad():
        logits = source.model(torch.tensor([[0.3, -0.9], [0.0, 7.0]]))
    rows = predicted(folder / "out", "0.3,-0.9", "0,7")
    assert [row[1] for row in rows] == ["ab"[int(best)] for best in logits.argmax(dim=1)]


@pytest.mark.parametrize(("stored", "seen"), [(8, 8), (8, 6)])
def test_export_is_checked_on_test_samples(
    folder: Path,
    config_of: Callable[[str, int], ModelConfig],
    stripes: Samples,
    stored: int,
    seen: int,
) -> None:
    storage.save(paths.TEST, stripes)
    own = {"class_names": stripes.class_names}
    config = config_of("softmax", seen).model_copy(update=own)
    checked = export.export(built(config), "safetensors", folder / "out", force=False)
    assert checked.samples == "100 test samples"
    inputs = export._test_inputs(config)
    assert inputs is not None
    border = (stored - seen) // 2
    center = stripes.inputs[:100, :, border : 8 - border, border : 8 - border]
    np.testing.assert_array_equal(inputs, center)
    other = dataclasses.replace(built(config), config=config_of("softmax", seen))
    assert export._test_inputs(other.config) is None


@pytest.fixture
def trained(folder: Path, config_of: Callable[[str, int], ModelConfig]) -> ModelConfig:
    """models/ has a network for gray 8x8 images."""
    config = config_of("softmax", 8)
    classifier.save(built(config).model, config)
    return config


def run(*, to: str = "out", model: str = "models", force: bool = False) -> int:
    return command.export(model, "safetensors", to, Path.cwd(), force=force)


@pytest.mark.usefixtures("trained")
def test_command_prints_the_difference(capsys: pytest.CaptureFixture[str]) -> None:
    assert run() == 0
    pattern = r"out: its logits .* by \d\.\de[-+]\d\d at most, on 100 random inputs\n"
    assert re.fullmatch(pattern, capsys.readouterr().out)
    weights = load_file("out/model.safetensors")
    assert weights.keys() == {"head.weight", "head.bias"}


@pytest.mark.usefixtures("trained")
def test_folder_is_replaced_only_with_force(folder: Path) -> None:
    assert run() == 0
    (folder / "out/README.md").write_text("old")
    with pytest.raises(RetraceError, match=r"--to is .*/out', which exists; --force replaces it"):
        run()
    assert run(force=True) == 0
    assert (folder / "out/README.md").read_text() != "old"
    (folder / "photos").mkdir()
    for force in (False, True):
        with pytest.raises(RetraceError, match="photos', which is not an export"):
            run(to="photos", force=force)
    assert not [file for file in folder.iterdir() if file.name.startswith(".out")]


@pytest.mark.usefixtures("trained")
def test_interrupted_export_keeps_the_old_one(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run() == 0
    (folder / "out/README.md").write_text("old")
    replace = Path.replace

    def interrupted(path: Path, target: Path) -> Path:
        if target.name == "out" and not path.name.endswith(".before"):
            raise KeyboardInterrupt
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(force=True)
    assert (folder / "out/README.md").read_text() == "old"
    assert not [file for file in folder.iterdir() if file.name.startswith(".out")]


@pytest.mark.usefixtures("trained")
def test_wrong_logits_are_not_exported(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    usual = FORMATS["safetensors"]

    def wrong(unfinished: Path) -> Callable[[np.ndarray], np.ndarray]:
        right = usual.open(unfinished)
        return lambda inputs: right(inputs) + np.float32(0.01)

    monkeypatch.setitem(FORMATS, "safetensors", dataclasses.replace(usual, open=wrong))
    assert run() == 1
    assert "differ from the network's by 1.0e-02 at most" in capsys.readouterr().err
    assert not [file for file in folder.iterdir() if "out" in file.name]


def test_missing_model_is_refused(folder: Path) -> None:
    (folder / "empty").mkdir()
    with pytest.raises(DataError, match=r"empty/model.safetensors, .*: not a trained model"):
        run(model="empty")
    assert not (folder / "out").exists()


def test_formats_are_those_of_the_command() -> None:
    assert tuple(FORMATS) == command.FORMATS
