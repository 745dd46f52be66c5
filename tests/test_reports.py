"""Results as files, the pictures drawn from them, and the progress of training on a terminal."""

import dataclasses
import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console
from rich.progress import Progress

from retrace import params, paths, progress, reports
from retrace.errors import DataError
from retrace.figures import FIGURES, learning_curves, mistakes, style
from retrace.reports import Predictions, Results
from retrace.samples import Samples
from retrace.training import Epoch, Step


@pytest.fixture
def results() -> Results:
    """60 random images of twelve classes in three colours, most of them told right."""
    rng = np.random.default_rng(0)
    labels = np.arange(60) % 12
    logits = rng.normal(size=(60, 12)).astype(np.float32)
    logits[np.arange(60), labels] += 3
    epoch = {"train_loss": 0.5, "train_accuracy": 0.8, "val_loss": 0.4, "val_accuracy": 0.9}
    return Results(
        history=[{"epoch": 1.0, **epoch}, {"epoch": 2.0, **epoch}],
        metrics={"test_loss": 0.3, "test_accuracy": 0.95},
        predictions=Predictions(logits, rng.normal(size=(60, 5)).astype(np.float32), labels),
        samples=Samples(
            rng.integers(0, 256, (60, 3, 9, 9), dtype=np.uint8), labels, tuple(f"class {i}" for i in range(12))
        ),
        seed=0,
    )


def test_every_figure_has_settings_and_they_fit(values: params.Values) -> None:
    assert set(params.bind_all(FIGURES, values["figures"], "figures")) == set(FIGURES)


@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_is_a_picture_and_equal_results_are_equal_bytes(
    tmp_path: Path, values: params.Values, results: Results, name: str
) -> None:
    for file in ("a.png", "b.png"):
        style.save(FIGURES[name](results, **values["figures"][name]), tmp_path / file)
    with Image.open(tmp_path / "a.png") as picture:
        assert min(picture.size) >= 200
        assert len(picture.convert("L").getcolors(256) or []) > 10
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_a_picture_says_so_where_there_is_no_mistake(tmp_path: Path, results: Results) -> None:
    perfect = dataclasses.replace(results.predictions, logits=np.eye(12, dtype=np.float32)[results.samples.labels])
    figure = mistakes.draw(dataclasses.replace(results, predictions=perfect), rows=3, columns=8)
    assert figure.get_suptitle() == "No mistake in 60 test samples"


def test_features_without_two_dimensions_have_no_map(values: params.Values, results: Results) -> None:
    for features in (np.zeros((60, 5)), np.arange(60.0).reshape(-1, 1)):
        dead = dataclasses.replace(results.predictions, features=features.astype(np.float32))
        figure = FIGURES["tsne"](dataclasses.replace(results, predictions=dead), **values["figures"]["tsne"])
        assert figure.get_suptitle().startswith("No t-SNE")


def test_the_worst_mistake_comes_first(results: Results) -> None:
    logits = np.full((60, 12), -9.0, dtype=np.float32)
    logits[np.arange(60), results.samples.labels] = 9
    logits[7, 1], logits[20, 2] = 50, 10
    wrong = dataclasses.replace(results, predictions=dataclasses.replace(results.predictions, logits=logits))
    titles = [axes.get_title() for axes in mistakes.draw(wrong, rows=1, columns=8).axes]
    assert titles == ["true class 7\nsaid class 1 (100%)", "true class 8\nsaid class 2 (73%)"]


def test_axes_are_named_with_units(results: Results) -> None:
    loss, accuracy = learning_curves.draw(results).axes
    assert (loss.get_xlabel(), loss.get_ylabel()) == ("epoch", "loss (cross-entropy, nats)")
    assert accuracy.get_ylabel() == "accuracy (share of samples)"


@pytest.mark.usefixtures("folder")
def test_reports_come_back_as_they_were_written(results: Results) -> None:
    reports.save_table(paths.HISTORY, results.history)
    reports.save_metrics(results.metrics)
    reports.save_predictions(results.predictions)
    assert reports.load_history() == results.history
    assert reports.load_metrics() == results.metrics
    np.testing.assert_array_equal(reports.load_predictions().logits, results.predictions.logits)
    assert results.probabilities.sum(axis=1) == pytest.approx(np.ones(60))


@pytest.mark.usefixtures("folder")
def test_the_confusion_table_names_classes() -> None:
    reports.save_confusion(np.array([0, 1]), np.array([0, 0]), ("cat", "dog, wet"))
    assert paths.CONFUSION.read_text() == 'actual,predicted\ncat,cat\n"dog, wet",cat\n'


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("path", "content", "load", "stage"),
    [
        (paths.HISTORY, "epoch,loss\n", reports.load_history, "train"),
        (paths.HISTORY, "epoch\nabc\n", reports.load_history, "train"),
        (paths.HISTORY, None, reports.load_history, "train"),
        (paths.METRICS, "{", reports.load_metrics, "evaluate"),
        (paths.METRICS, None, reports.load_metrics, "evaluate"),
        (paths.PREDICTIONS, "rubbish", reports.load_predictions, "evaluate"),
        (paths.PREDICTIONS, None, reports.load_predictions, "evaluate"),
    ],
)
def test_a_damaged_report_is_named_with_the_stage_that_makes_it(
    path: Path, content: str | None, load: type, stage: str
) -> None:
    path.parent.mkdir(exist_ok=True)
    if content is not None:
        path.write_text(content)
    with pytest.raises(DataError, match=rf"{path}: .*dvc repro {stage}"):
        load()


EPOCH = Epoch(1, 0.5, 0.75, 0.4, 0.8)
STEP = Step(30, 64, torch.tensor(0.25), torch.tensor(48))


def test_a_log_gets_a_line_an_epoch(capsys: pytest.CaptureFixture[str]) -> None:
    with progress.follow(2, 60) as follower:
        follower.step(STEP)
        follower.epoch(EPOCH)
    assert capsys.readouterr().out.startswith(
        "epoch 1/2  train loss 0.5000 accuracy 75.00%  validation loss 0.4000 accuracy 80.00%  "
    )
    assert follower.images_per_s > 0


def test_a_terminal_gets_a_bar_with_loss_accuracy_speed_and_time_left() -> None:
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=120)
    with Progress(*progress.columns(), console=console, auto_refresh=False, transient=True) as drawn:
        bar = progress.Bar(2, 60, drawn)
        bar.step(STEP)
        bar.epoch(EPOCH)
    shown = screen.getvalue()
    assert "30/60" in shown
    assert "loss 0.2500  accuracy  75.0%" in shown
    assert "images/s" in shown
    assert "left" in shown
    assert "epoch 1/2" in shown
