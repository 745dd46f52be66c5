"""`retrace predict`: images become inputs as in training, and are classified."""

import io
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import typed
from PIL import Image

from lab import params, paths
from lab.cli import predict
from lab.data import decoding, storage
from lab.data.datasets import image_folder
from lab.data.samples import Samples
from lab.data.storage import Scale
from lab.evaluation import inference
from lab.models import classifier, initialization
from lab.models.classifier import ModelConfig
from lab.serving import prediction
from lab.serving.prediction import Predictor
from retrace.errors import DataError, ParamsError, RetraceError

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (28, 28), dtype=np.uint8)
COLOUR = RNG.integers(0, 256, (32, 32, 3), dtype=np.uint8)


def encoded(image: Image.Image, kind: str = "PNG", **settings: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **settings)
    return stream.getvalue()


def upside_down(image: Image.Image) -> bytes:
    """As a camera held upside down writes it: turned pixels, and EXIF to turn them back."""
    exif = Image.Exif()
    exif[0x0112] = 3
    return encoded(image.rotate(180), exif=exif)


@pytest.mark.parametrize(
    "content",
    [
        encoded(Image.fromarray(GREY)),
        encoded(Image.fromarray(GREY).convert("RGB")),
        encoded(Image.fromarray(GREY).convert("RGBA")),
        encoded(Image.fromarray(GREY).convert("LA")),
        encoded(Image.fromarray(GREY).convert("P")),
        encoded(Image.fromarray(GREY.astype(np.uint16) << 8)),
        encoded(Image.fromarray(GREY), "BMP"),
        encoded(Image.fromarray(GREY).convert("RGB"), "WEBP", lossless=True),
        upside_down(Image.fromarray(GREY)),
    ],
    ids=["L", "RGB", "RGBA", "LA", "P", "16 bit", "BMP", "WEBP", "EXIF"],
)
def test_image_of_own_size_keeps_pixels(content: bytes) -> None:
    assert (decoding.pixels(content, (1, 28, 28), 28)[0] == GREY).all()


def test_colour_image_keeps_pixels() -> None:
    decoded = decoding.pixels(encoded(Image.fromarray(COLOUR)), (3, 32, 32), 32)
    assert (decoded == COLOUR.transpose(2, 0, 1)).all()


@pytest.mark.parametrize("size", [(1, 1), (3, 500), (640, 480), (28, 29)])
@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32)])
def test_image_gets_shape_of_model(size: tuple[int, int], shape: tuple[int, int, int]) -> None:
    for content in (
        encoded(Image.new("CMYK", size, (9, 90, 200, 9)), "JPEG"),
        encoded(Image.new("1", size, 1)),
    ):
        decoded = decoding.pixels(content, shape, shape[1])
        assert (decoded.shape, decoded.dtype) == (shape, np.uint8)


@pytest.fixture
def seen() -> list[np.ndarray]:
    """The inputs of the network of `watched`."""
    return []


@pytest.fixture
def watched(seen: list[np.ndarray]) -> Callable[..., Predictor]:
    """A network of two classes that keeps its inputs."""

    def make(shape: tuple[int, ...], resize: int | None = None) -> Predictor:
        def probabilities(inputs: np.ndarray) -> np.ndarray:
            seen.append(inputs)
            first = np.linspace(0.6, 0.9, len(inputs), dtype=np.float32)
            return np.stack([first, 1 - first], axis=1)

        return Predictor(shape, ("a", "b"), resize, probabilities)

    return make


def put(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(("side", "margin"), [(0, 0), (16, 0), (12, 2)])
def test_predict_uses_pixels_of_training(
    watched: Callable[..., Predictor], seen: list[np.ndarray], side: int, margin: int
) -> None:
    for name, size in {
        "cat/a": (90, 50),
        "cat/b": (8, 300),
        "dog/c": (64, 64),
        "dog/d": (71, 13),
    }.items():
        noise = Image.fromarray(RNG.integers(0, 256, (*size, 3), dtype=np.uint8))
        put(paths.IMAGES / f"{name}.png", encoded(noise))
    image_folder.collect(paths.RAW)
    samples = image_folder.read(paths.RAW, resize=24, crop=16, on_bad="fail").train
    storage.save(paths.TRAIN, samples, Scale((0.0,) * 3, (1.0,) * 3))
    loaded, scale = storage.load(paths.TRAIN)
    _, config = initialization.build(
        typed(params.Train, model="softmax", input_size=side), loaded, scale
    )
    assert config.resize == 24
    files = [Path(samples.name(index)) for index in range(len(samples))]
    list(prediction.predictions(watched(config.shape, config.resize), files, invert=False))
    kept = slice(margin, 16 - margin)
    difference = np.concatenate(seen).astype(int) - samples.inputs[:, :, kept, kept]
    assert abs(difference).max() <= (1 if margin else 0)  # the crop's borders are rounded once more


@pytest.mark.parametrize("resize", [None, 72])
@pytest.mark.usefixtures("folder")
def test_config_keeps_resize(
    config_of: Callable[[str, int], ModelConfig], resize: int | None
) -> None:
    config = config_of("softmax", 8).model_copy(update={"resize": resize})
    classifier.save(classifier.build(config), config)
    assert ("resize" in paths.MODEL_CONFIG.read_text()) == (resize is not None)
    assert classifier.load()[1] == config


def test_split_file_keeps_resize(tmp_path: Path, stripes: Samples) -> None:
    cut = Samples(stripes.inputs, stripes.labels, stripes.class_names, None, 9).take(np.arange(5))
    storage.save(tmp_path / "part", cut, Scale((0.0,), (1.0,)))
    assert storage.load(tmp_path / "part")[0].resize == 9


@pytest.mark.parametrize(("shape", "at_once"), [((1, 28, 28), 100), ((3, 400, 400), 8)])
def test_predict_limits_images_in_memory(
    tmp_path: Path,
    watched: Callable[..., Predictor],
    seen: list[np.ndarray],
    shape: tuple[int, ...],
    at_once: int,
) -> None:
    file = put(tmp_path / "a.png", encoded(Image.fromarray(GREY)))
    n = 2 * at_once + 1
    assert (
        len(list(prediction.predictions(watched(shape), (file for _ in range(n)), invert=False)))
        == n
    )
    assert [len(inputs) for inputs in seen] == [at_once, at_once, 1]
    assert at_once <= inference.BATCH["cpu"]


def test_invert_predicts_negatives(
    tmp_path: Path, watched: Callable[..., Predictor], seen: list[np.ndarray]
) -> None:
    file = put(tmp_path / "a.png", encoded(Image.fromarray(GREY)))
    for invert in (False, True):
        list(prediction.predictions(watched((1, 28, 28)), [file], invert=invert))
    assert (seen[0][0, 0] == GREY).all()
    assert (seen[1][0, 0] == 255 - GREY).all()


@pytest.mark.parametrize("shape", [(2,), (1, 8, 9)])
def test_network_without_images_is_refused(
    watched: Callable[..., Predictor], shape: tuple[int, ...]
) -> None:
    with pytest.raises(DataError, match=r"takes \(.*\) numbers, not images"):
        list(prediction.predictions(watched(shape), [Path("a.png")], invert=False))


@pytest.fixture
def trained(folder: Path, config_of: Callable[[str, int], ModelConfig]) -> ModelConfig:
    """models/ has a network for grey 28x28 images."""
    config = config_of("softmax", 28)
    classifier.save(classifier.build(config), config)
    return config


def run(*images: str, model: str = "models", **changed: Any) -> int:
    chosen = {"top": 1, "invert": False, "device": "cpu", "as_json": False} | changed
    return predict.predict(model, images, Path.cwd(), **chosen)


@pytest.mark.usefixtures("trained")
def test_folder_is_read_recursively(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("in/b.png", "in/deep/a.PNG", "in/.hidden.png", "one.dat"):
        put(folder / name, encoded(Image.fromarray(GREY)))
    put(folder / "in/deep/notes.txt", b"no picture")
    put(folder / "in/c.jpg", encoded(Image.fromarray(GREY), "JPEG")[:-200])
    put(folder / "in/d\n.png", b"")
    (folder / "empty").mkdir()
    os.mkfifo(folder / "pipe")
    (folder / "loop").symlink_to("loop")
    assert run("in", "one.dat", "empty", "gone.png", "pipe", "loop") == 1
    output = capsys.readouterr()
    assert [line.split("  ")[0] for line in output.out.splitlines()] == [
        "in/b.png",
        "in/deep/a.PNG",
        "one.dat",
    ]
    lines = output.err.splitlines()
    assert lines[0].startswith("in/c.jpg: ")
    assert lines[1] == "in/d\\n.png: empty"
    assert lines[2].startswith("empty: no image in it")
    assert lines[3:] == [
        "gone.png: no such file",
        "pipe: not a file",
        "loop: a broken symbolic link",
        "6 of 9 can't be read",
    ]


@pytest.mark.usefixtures("trained")
def test_lines_show_top_classes_json_all(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    put(folder / "a.png", encoded(Image.fromarray(GREY)))
    put(folder / "b.png", b"broken")
    assert run("a.png", top=9) == 0
    path, first, sure, second, less = capsys.readouterr().out.split()
    assert (path, {first, second}) == ("a.png", {"a", "b"})
    assert float(sure) + float(less) == pytest.approx(1, abs=1e-4)
    assert float(sure) >= float(less)
    assert run("a.png", "a.png", "b.png", as_json=True) == 1
    document = json.loads(capsys.readouterr().out)
    assert [one["path"] for one in document["predictions"]] == ["a.png", "a.png"]
    assert [failure["path"] for failure in document["failed"]] == ["b.png"]
    one = document["predictions"][0]
    assert one["label"] == first == max(one["probabilities"], key=one["probabilities"].get)
    assert one["probability"] == pytest.approx(float(sure), abs=1e-4)


@pytest.mark.usefixtures("trained")
@pytest.mark.parametrize("images", [["b.png"], []])
def test_json_is_complete_without_predictions(
    images: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*images, as_json=True) == len(images)
    document = json.loads(capsys.readouterr().out)
    assert (document["predictions"], len(document["failed"])) == ([], len(images))


@pytest.mark.parametrize(
    "model", ["models", "models/model.safetensors", "elsewhere", "elsewhere/mine.safetensors"]
)
@pytest.mark.usefixtures("trained")
def test_model_is_file_or_folder(folder: Path, model: str) -> None:
    put(folder / "a.png", encoded(Image.fromarray(GREY)))
    for name in ("model", "mine"):
        put(folder / f"elsewhere/{name}.safetensors", paths.WEIGHTS.read_bytes())
        put(folder / f"elsewhere/{name}.json", paths.MODEL_CONFIG.read_bytes())
    assert run("a.png", model=model) == 0


@pytest.mark.parametrize(
    ("model", "changed", "message"),
    [
        ("data", {}, "data/model.safetensors, .*data/model.json: not a trained model: "),
        ("a.png", {}, "a.png, .*a.json: not a trained model: "),
        ("models", {"top": 0}, "--top is 0; should be 1 or more"),
        ("models", {"device": "cuda"}, "--device is 'cuda', but torch sees no GPU here; use cpu"),
    ],
)
@pytest.mark.usefixtures("trained")
def test_bad_argument_is_refused_in_one_line(
    folder: Path, monkeypatch: pytest.MonkeyPatch, model: str, changed: dict[str, Any], message: str
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    put(folder / "a.png", encoded(Image.fromarray(GREY)))
    (folder / "data").mkdir()
    with pytest.raises((DataError, ParamsError, RetraceError), match=message) as raised:
        run("a.png", model=model, **changed)
    assert "\n" not in str(raised.value)
