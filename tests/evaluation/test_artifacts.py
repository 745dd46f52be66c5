"""Results as files, and the diagnosis of a history."""

import csv
from pathlib import Path

import numpy as np
import pytest

from lab import paths, stage_files
from lab.data.samples import Samples
from lab.evaluation import artifacts
from lab.evaluation.artifacts import Grid, HeatMaps, NetworkViews, Predictions
from lab.stage_files import Table
from lab.training import records
from lab.training.records import diagnosis
from retrace.errors import DataError

STEPS = [{"step": i + 1.0, "learning_rate": 0.1 / (i + 1), "loss": 2.0 / (i + 1)} for i in range(5)]


def epochs(*rows: tuple[float, float, float, float]) -> Table:
    names = ("epoch", "train_loss", "train_accuracy", "val_loss", "val_accuracy")
    return [dict(zip(names, (float(i), *row), strict=True)) for i, row in enumerate(rows, 1)]


CHANCE_OF_TWO = epochs((0.7, 0.48, 0.694, 0.49), (0.693, 0.49, 0.693, 0.5))
CHANCE_OF_TEN = epochs((2.3, 0.1, 2.31, 0.1), (2.29, 0.12, 2.6, 0.1))


@pytest.mark.parametrize(
    ("history", "verdict", "figures"),
    [
        (
            epochs((0.9, 0.7, 0.8, 0.75), (0.4, 0.88, 0.42, 0.86), (0.11, 0.97, 0.61, 0.86)),
            "Overfits",
            ("0.42 (epoch 2) to 0.61", "0.4 to 0.11"),
        ),
        (epochs((0.9, 0.7, 0.9, 0.7), (0.1, 0.99, 0.85, 0.75)), "Overfits", ("99.0%", "75.0%")),
        # Neither accuracy is good, but the training samples are learnt.
        (epochs((4.0, 0.3, 4.0, 0.2), (2.0, 0.7, 3.5, 0.3)), "Overfits", ("70.0%", "30.0%")),
        (epochs((0.3, 0.9, 0.5, 0.84)), "Overfits", ("90.0%", "84.0%")),
        (CHANCE_OF_TWO, "Underfits", ("49.0%", "50.0%", "epoch 2", "a larger network")),
        (CHANCE_OF_TEN, "Underfits", ("12.0%", "10.0%", "epoch 2", "a larger network")),
        (
            epochs((1.5, 0.4, 1.4, 0.5), (1.2, 0.6, 1.2, 0.52)),
            "Underfits",
            ("60.0%", "52.0%", "epoch 2", "train longer"),
        ),
        (epochs((1.5, 0.4, 1.4, 0.5)), "Underfits", ("40.0%", "50.0%", "train longer")),
        (epochs((0.3, 0.91, 0.07, 0.98)), "Fits well", ("91.0%", "98.0%", "0.07 (epoch 1)")),
        # Dropout and augmentation lower training accuracy.
        (epochs((1.2, 0.6, 0.6, 0.8), (0.9, 0.7, 0.5, 0.84)), "Fits well", ("0.5 (epoch 2)",)),
        # A rise as small as this may be chance.
        (
            epochs((0.1, 0.97, 0.028, 0.992), (0.005, 0.999, 0.033, 0.991)),
            "Fits well",
            ("99.9%", "99.1%", "0.028 (epoch 1)"),
        ),
        # Training became worse too.
        (epochs((0.3, 0.9, 0.3, 0.9), (0.6, 0.85, 0.5, 0.86)), "Fits well", ("0.3 (epoch 1)",)),
    ],
)
def test_diagnosis(history: Table, verdict: str, figures: tuple[str, ...]) -> None:
    sentence = diagnosis(history)
    assert sentence.startswith(f"{verdict}: ")
    assert [figure for figure in figures if figure not in sentence] == []


@pytest.mark.usefixtures("folder")
def test_tables_round_trip() -> None:
    history = epochs((0.7, 0.7, 0.5, 0.85), (0.5, 0.8, 0.4, 0.9))
    stage_files.save_table(paths.HISTORY, history)
    stage_files.save_table(paths.STEPS, STEPS)
    artifacts.save_metrics({"test_loss": 0.3, "test_accuracy": 0.95})
    assert records.load_history() == history
    assert records.load_steps() == STEPS
    assert artifacts.load_metrics() == {"test_loss": 0.3, "test_accuracy": 0.95}


@pytest.mark.usefixtures("folder")
def test_arrays_round_trip() -> None:
    rng = np.random.default_rng(0)
    labels = np.arange(60) % 12
    logits = rng.normal(size=(60, 12)).astype(np.float32)
    batch = (rng.integers(0, 256, (20, 3, 9, 9), dtype=np.uint8), labels[:20])
    artifacts.save_predictions(Predictions(logits, logits[:, :5], labels))
    records.save_batch(*batch)
    np.testing.assert_array_equal(artifacts.load_predictions().logits, logits)
    for loaded, saved in zip(records.load_batch(), batch, strict=True):
        assert loaded.dtype == saved.dtype
        np.testing.assert_array_equal(loaded, saved)


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("has_grid", [False, True])
def test_views_keep_order_of_layers(has_grid: bool) -> None:
    ticks = np.linspace(-2, 2, 9, dtype=np.float32)
    grid = Grid(ticks, ticks[:5], np.zeros((5, 9, 2), np.float32)) if has_grid else None
    filters = None if has_grid else np.ones((4, 3, 5, 5), np.float32)
    maps = {f"layer.{i}": np.full((2, i, i), i, dtype=np.float32) for i in range(12, 0, -1)}
    heat = (
        None
        if has_grid
        else HeatMaps(np.array([5, 2]), np.ones((2, 3, 3), np.float32), np.array([8, 8]))
    )
    artifacts.save_views(NetworkViews(filters, maps, grid, heat))
    loaded = artifacts.load_views()
    assert (loaded.heat is None) == has_grid
    if loaded.heat:
        assert loaded.heat.samples.tolist() == [5, 2]
        assert loaded.heat.maps.shape == (2, 3, 3)
    assert list(loaded.maps) == list(maps)
    assert (loaded.filters is None, loaded.grid is None) == (has_grid, not has_grid)
    for name, values in maps.items():
        np.testing.assert_array_equal(loaded.maps[name], values)
    if loaded.grid:
        np.testing.assert_array_equal(loaded.grid.x, ticks)
        np.testing.assert_array_equal(loaded.grid.y, ticks[:5])


@pytest.mark.usefixtures("folder")
def test_confusion_table_has_class_names() -> None:
    artifacts.save_confusion(np.array([0, 1]), np.array([0, 0]), ("cat", "dog, wet"))
    assert paths.CONFUSION.read_text() == 'actual,predicted\ncat,cat\n"dog, wet",cat\n'


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("n", [2, 21])
def test_prediction_table_has_any_names(n: int) -> None:
    hostile = ('a "b", c', "d\ne", *map(str, range(n - 2)))
    labels = np.array([0, 1])
    logits = np.full((2, n), -np.inf, np.float32)
    logits[:, :2] = np.log([[0.75, 0.25], [0.9, 0.1]])
    samples = Samples(np.zeros((2, 2)), labels, hostile, np.array(["x/1,.png", "y.png"]))
    artifacts.save_prediction_table(samples, Predictions(logits, logits, labels))
    with paths.PREDICTION_TABLE.open(newline="", encoding="utf-8") as file:
        first, second = csv.DictReader(file)
    few = {'probability.a "b", c': "0.75", "probability.d\ne": "0.25"} if n == 2 else {}
    own = {"sample": "x/1,.png", "label": hostile[0], "predicted": hostile[0]}
    assert first == own | {"probability": "0.75"} | few
    assert (second["label"], second["predicted"]) == (hostile[1], hostile[0])


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("path", "content", "load", "stage"),
    [
        (paths.HISTORY, "epoch,loss\n", records.load_history, "train"),
        (paths.HISTORY, "epoch\nabc\n", records.load_history, "train"),
        (paths.HISTORY, None, records.load_history, "train"),
        (paths.STEPS, "step,loss\n1\n", records.load_steps, "train"),
        (paths.STEPS, None, records.load_steps, "train"),
        (paths.METRICS, "{", artifacts.load_metrics, "evaluate"),
        (paths.METRICS, None, artifacts.load_metrics, "evaluate"),
        (paths.PREDICTIONS, "rubbish", artifacts.load_predictions, "evaluate"),
        (paths.PREDICTIONS, None, artifacts.load_predictions, "evaluate"),
        (paths.BATCH, "rubbish", records.load_batch, "train"),
        (paths.BATCH, None, records.load_batch, "train"),
        (paths.VIEWS, "rubbish", artifacts.load_views, "evaluate"),
        (paths.VIEWS, None, artifacts.load_views, "evaluate"),
    ],
)
def test_report_damaged_names_its_stage(
    path: Path, content: str | None, load: type, stage: str
) -> None:
    path.parent.mkdir(exist_ok=True)
    if content is not None:
        path.write_text(content)
    with pytest.raises(DataError, match=rf"{path}: .*dvc repro {stage}"):
        load()
