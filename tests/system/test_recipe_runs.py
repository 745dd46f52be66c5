"""Every recipe, from raw files to figures: the five stages on a data set of some hundred samples.

The raw files are scikit-learn's digits in the format of the recipe's data set, so that there is
something to learn. The stages run in this process: their imports take longer than their work.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import mlflow
import numpy as np
import pytest
from mlflow.entities import Run
from PIL import Image
from repository import ROOT, stage
from ruamel.yaml import YAML
from sklearn.datasets import load_digits

from lab import params, paths, recipes
from lab.data.datasets import cifar10, fashion_mnist, mnist
from lab.report.figures import FIGURES
from retrace.pipeline import params_yaml

pytestmark = pytest.mark.long

# circles_relu_long is circles_relu with more epochs, which are two here.
RECIPES = sorted({file.stem for file in (ROOT / "recipes").glob("*.yaml")} - {"circles_relu_long"})
N = 300  # images
# There may be no mistake, and the four units of a circles network may all be dead.
OPTIONAL = {"mistakes", "tsne"}
# No weights are at hand: test_transfer.py loads what a file brings.
SMALL = {
    "validation_fraction": 0.2,
    "epochs": 2,
    "threads": 1,
    "device": "cpu",
    "pretrained": "none",
}


STAGES = {name: stage(name) for name in params.STAGES}


def digits(side: int) -> tuple[np.ndarray, np.ndarray]:
    """(N, side, side) uint8 and their labels, ten classes."""
    images, labels = load_digits(return_X_y=True)
    zoomed = (
        (np.asarray(images[:N]) * 15)
        .astype(np.uint8)
        .reshape(N, 8, 8)
        .repeat(3, axis=1)
        .repeat(3, axis=2)
    )
    margin = (side - 24) // 2
    return np.pad(zoomed, ((0, 0), (margin, margin), (margin, margin))), np.asarray(
        labels[:N], dtype=np.uint8
    )


def write_idx(folder: Path) -> None:
    images, labels = digits(28)
    for file, array in zip(mnist.FILES, [images, labels] * 2, strict=True):
        sizes = b"".join(size.to_bytes(4, "big") for size in array.shape)
        (folder / file.name).write_bytes(bytes([0, 0, 8, array.ndim]) + sizes + array.tobytes())


def write_cifar(folder: Path) -> None:
    images, labels = digits(32)
    rows = np.concatenate(
        [labels[:, None], np.repeat(images.reshape(N, 1, -1), 3, axis=1).reshape(N, -1)], axis=1
    )
    for i, file in enumerate(cifar10.FILES):
        (folder / file.name).write_bytes(rows[i * N // 6 : (i + 1) * N // 6].tobytes())


def write_images(folder: Path) -> None:
    images, labels = digits(32)
    for i, (image, label) in enumerate(zip(images[:80], labels[:80], strict=True)):
        file = folder / f"class {label % 2}" / f"{i}.{'jpg' if i % 3 else 'png'}"
        file.parent.mkdir(exist_ok=True, parents=True)
        Image.fromarray(image).resize((40 + i, 100 - i)).save(file)


def collected(write: Callable[[Path], None]) -> Callable[[Path], str]:
    def collect(folder: Path) -> str:
        folder.mkdir(parents=True)
        write(folder)
        return "the test"

    return collect


def drawable(values: params_yaml.Values) -> set[str]:
    """Return the figures that such an experiment has, without `OPTIONAL`."""
    lacking = set(OPTIONAL)
    if values["dataset"] == "circles":
        lacking |= {"augmented_batch", "samples", "filters", "feature_maps"}
    else:
        lacking |= {"decision_boundary"}
    if values["model"].startswith("softmax"):
        lacking |= {"feature_maps"}
    return set(FIGURES) - lacking


def logged_runs(folder: Path, name: str) -> dict[str | None, Run]:
    """Return the runs of an MLflow experiment by their stage; the stage of the parent is None."""
    client = mlflow.MlflowClient(f"sqlite:///{folder}/mlflow.db")
    experiment = client.get_experiment_by_name(name)
    assert experiment is not None
    return {
        run.data.tags.get("retrace.stage"): run
        for run in client.search_runs([experiment.experiment_id])
    }


@pytest.mark.usefixtures("beside")
@pytest.mark.parametrize("name", RECIPES)
def test_recipe_runs_from_raw_files_to_figures(
    folder: Path,
    empty_store: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    name: str,
) -> None:
    shutil.copytree(ROOT / "recipes", folder / "recipes")
    shutil.copy(empty_store, folder / "mlflow.db")
    values = recipes.load(name).values | SMALL
    # A hundredth of 30 images is none.
    values["class_shares"] = [1.0, 0.5] * (len(values["class_shares"]) // 2)
    with paths.PARAMS.open("w") as file:
        YAML().dump(values, file)
    monkeypatch.setenv("RETRACE_CACHE", str(folder / "cache"))
    monkeypatch.setattr(mnist, "collect", collected(write_idx))
    monkeypatch.setattr(fashion_mnist, "collect", collected(write_idx))
    monkeypatch.setattr(cifar10, "collect", collected(write_cifar))
    write_images(paths.IMAGES)

    for module in STAGES.values():
        module.main()

    assert "not in MLflow yet" not in capsys.readouterr().err
    figures = {file.stem for file in paths.FIGURES.glob("*.png")}
    assert figures - OPTIONAL == drawable(values)
    runs = logged_runs(folder, values["dataset"])
    assert {run.info.status for run in runs.values()} == {"FINISHED"}
    assert set(runs) == {None, *params.STAGES}
    parent = runs[None]
    assert (
        parent.data.metrics["test_accuracy"]
        == json.loads(paths.METRICS.read_text())["test_accuracy"]
    )
    assert parent.outputs is not None
    assert len(parent.outputs.model_outputs) == 1
