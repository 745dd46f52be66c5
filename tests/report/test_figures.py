"""Figures drawn from an experiment's results."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from matplotlib.collections import QuadMesh
from matplotlib.contour import ContourSet
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image
from repository import ROOT
from sklearn.datasets import load_digits
from sklearn.manifold import trustworthiness
from sklearn.model_selection import cross_val_score
from sklearn.neighbors import KNeighborsClassifier

from lab import params
from lab.data.samples import Samples
from lab.evaluation.artifacts import Grid, HeatMaps, NetworkViews, Predictions
from lab.report.figures import FIGURES, style, thresholds, tsne
from lab.report.results import Results
from lab.training.records import diagnosis
from retrace.pipeline import params_yaml

HISTORY = [
    {"epoch": 1.0, "train_loss": 0.7, "train_accuracy": 0.7, "val_loss": 0.5, "val_accuracy": 0.85},
    {"epoch": 2.0, "train_loss": 0.5, "train_accuracy": 0.8, "val_loss": 0.4, "val_accuracy": 0.9},
]
STEPS = [{"step": i + 1.0, "learning_rate": 0.1 / (i + 1), "loss": 2.0 / (i + 1)} for i in range(5)]
SMALL = {"rows": 2, "columns": 3, "samples": 60, "channels": 2}


@pytest.fixture
def settings(values: params_yaml.Values) -> params.Table:
    return values["figures"]


@pytest.fixture
def logged() -> dict[str, float]:
    """The metrics that figures log to `results`."""
    return {}


@pytest.fixture
def results(logged: dict[str, float]) -> Results:
    """60 random RGB images of twelve classes, most of them correctly classified."""
    rng = np.random.default_rng(0)
    labels = np.arange(60) % 12
    logits = rng.normal(size=(60, 12)).astype(np.float32)
    logits[np.arange(60), labels] += 3
    images = rng.integers(0, 256, (60, 3, 9, 9), dtype=np.uint8)
    maps = {
        f"convolution {i}": rng.normal(size=(3, 9 // i, 9 // i)).astype(np.float32) for i in (1, 2)
    }
    return Results(
        history=HISTORY,
        steps=STEPS,
        metrics={"test_loss": 0.3, "test_accuracy": 0.95},
        predictions=Predictions(logits, rng.normal(size=(60, 5)).astype(np.float32), labels),
        samples=Samples(images, labels, tuple(f"class {i}" for i in range(12))),
        batch=(images[:20, :, ::-1], labels[:20]),
        views=NetworkViews(
            rng.normal(size=(4, 3, 5, 5)).astype(np.float32),
            maps,
            None,
            HeatMaps(np.arange(60), rng.random((60, 4, 4), np.float32), np.array([9, 9])),
        ),
        seed=0,
        log_metric=logged.__setitem__,
    )


@pytest.fixture
def plane(results: Results) -> Results:
    """40 random points, classified by the sign of x."""
    points = np.random.default_rng(0).normal(size=(40, 2)).astype(np.float32)
    labels = (points[:, 0] > 0).astype(np.int64)
    ticks = np.linspace(-2, 2, 9, dtype=np.float32)
    return dataclasses.replace(
        results,
        predictions=Predictions(np.outer(points[:, 0], [-4, 4]), points, labels),
        samples=Samples(points, labels, ("left", "right")),
        batch=(points[:20], labels[:20]),
        views=NetworkViews(
            None, {}, Grid(ticks, ticks[:5], np.tile(np.outer(ticks, [-4, 4]), (5, 1, 1)))
        ),
    )


def drawn(name: str, results: Results, **settings: object) -> Figure:
    """Draw the figure, with its layout done."""
    figure = FIGURES[name](results, **settings)
    assert isinstance(figure, Figure)
    figure.draw_without_rendering()
    return figure


def predicted(results: Results, logits: np.ndarray, labels: list[int]) -> Results:
    """Replace the samples by others of two classes, with these logits."""
    predictions = Predictions(logits, np.zeros((len(labels), 1)), np.array(labels))
    samples = Samples(np.zeros((len(labels), 1, 2, 2), np.uint8), np.array(labels), ("no", "yes"))
    return dataclasses.replace(results, predictions=predictions, samples=samples)


def legend(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


def test_figures_have_valid_settings(settings: params.Table) -> None:
    assert set(params.bind_all(FIGURES, settings, "figures")) == set(FIGURES)


ABSENT = {
    ("results", "decision_boundary"): "the samples have 243 dimensions, not 2",
    ("plane", "augmented_batch"): "the samples are features, not images",
    ("plane", "samples"): "the samples are features, not images",
    ("plane", "mistakes"): "the samples are features, not images",
    ("plane", "grad_cam"): "the samples are features, not images",
    ("plane", "filters"): "the weights of the network's first layer are not images",
    ("plane", "feature_maps"): "the network has no convolution",
}


@pytest.mark.parametrize("name", FIGURES)
@pytest.mark.parametrize("kind", ["results", "plane"])
def test_figure_is_a_png_or_a_reason(
    tmp_path: Path, settings: params.Table, request: pytest.FixtureRequest, kind: str, name: str
) -> None:
    chosen = {key: SMALL.get(key, value) for key, value in settings[name].items()}
    figures = [FIGURES[name](request.getfixturevalue(kind), **chosen) for _ in range(2)]
    if (kind, name) in ABSENT:
        assert figures == [ABSENT[kind, name]] * 2
        return
    for figure, file in zip(figures, ("a.png", "b.png"), strict=True):
        assert isinstance(figure, Figure)
        style.save(figure, tmp_path / file)
    with Image.open(tmp_path / "a.png") as image:
        assert min(image.size) >= 200
        assert len(image.convert("L").getcolors(256) or []) > 10
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_figures_do_not_import_torch() -> None:
    modules = "lab.params, lab.report.figures, lab.evaluation.artifacts, lab.data.storage, retrace"
    code = f"import sys, {modules}; sys.exit('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env={"PYTHONPATH": "src"}, check=False
    )
    assert done.returncode == 0


def test_mistakes_of_a_perfect_classifier(results: Results) -> None:
    perfect = dataclasses.replace(
        results.predictions, logits=np.eye(12, dtype=np.float32)[results.samples.labels]
    )
    figure = FIGURES["mistakes"](
        dataclasses.replace(results, predictions=perfect), rows=3, columns=8
    )
    assert figure == "all 60 test samples are correctly classified"


def test_mistakes_begin_with_the_worst(results: Results) -> None:
    logits = np.full((60, 12), -9.0, dtype=np.float32)
    logits[np.arange(60), results.samples.labels] = 9
    logits[7, 1] = 50
    logits[20, 2] = 10
    wrong = dataclasses.replace(
        results, predictions=dataclasses.replace(results.predictions, logits=logits)
    )
    titles = [axes.get_title() for axes in drawn("mistakes", wrong, rows=1, columns=8).axes]
    assert titles == [
        "true class 7\npredicted class 1 (100%)",
        "true class 8\npredicted class 2 (73%)",
    ]


def test_samples_show_misclassified_in_red(results: Results) -> None:
    logits = np.eye(12, dtype=np.float32)[results.samples.labels]
    logits[1, 5] = 2
    wrong = dataclasses.replace(
        results, predictions=dataclasses.replace(results.predictions, logits=logits)
    )
    cells = drawn("samples", wrong, rows=1, columns=3).axes
    assert [axes.get_title() for axes in cells] == ["class 0", "class 1\n→ class 5", "class 2"]
    assert [axes.title.get_color() for axes in cells] == ["black", style.RED, "black"]
    np.testing.assert_array_equal(
        cells[2].images[0].get_array(), results.samples.inputs[2].transpose(1, 2, 0)
    )


def test_augmented_batch_has_labels(results: Results) -> None:
    cells = drawn("augmented_batch", results, rows=2, columns=2).axes
    assert [axes.get_title() for axes in cells] == ["class 0", "class 1", "class 2", "class 3"]
    np.testing.assert_array_equal(
        cells[3].images[0].get_array(), results.batch[0][3].transpose(1, 2, 0)
    )


def test_learning_curves_have_units_and_diagnosis(results: Results) -> None:
    figure = drawn("learning_curves", results)
    loss, accuracy = figure.axes
    assert (loss.get_xlabel(), loss.get_ylabel()) == (
        "epoch",
        "loss (validation: cross-entropy, nats)",
    )
    assert accuracy.get_ylabel() == "accuracy (share of samples)"
    assert [list(np.asarray(line.get_ydata())) for line in loss.lines] == [
        [0.7, 0.5],
        [0.5, 0.4],
        [0.3, 0.3],
    ]
    assert figure.get_suptitle().replace("\n", " ") == diagnosis(HISTORY)


def test_epochs_are_integers(results: Results) -> None:
    for axes in drawn("learning_curves", dataclasses.replace(results, history=HISTORY[:1])).axes:
        assert [tick for tick in axes.get_xticks() if 0.5 <= tick <= 1.5] == [1]


def test_learning_rate_by_step(results: Results) -> None:
    rate, loss = drawn("learning_rate", results).axes
    assert rate.lines[0].get_xydata() == pytest.approx(
        np.array([[s["step"], s["learning_rate"]] for s in STEPS])
    )
    assert loss.lines[0].get_xydata() == pytest.approx(
        np.array([[s["step"], s["loss"]] for s in STEPS])
    )
    assert loss.get_yscale() == "log"
    (zero, _) = drawn(
        "learning_rate", dataclasses.replace(results, steps=[STEPS[0] | {"loss": 0.0}])
    ).axes[::-1]
    assert zero.get_yscale() == "linear"


def test_confusion_matrix_cells(plane: Results) -> None:
    five = predicted(plane, np.eye(2)[[0, 1, 1, 1, 1]], [0, 0, 0, 1, 1])
    axes = drawn("confusion_matrix", five).axes[0]
    assert {text.get_position(): text.get_text() for text in axes.texts} == {
        (0, 0): "1",
        (1, 0): "2",
        (1, 1): "2",
    }
    assert axes.get_title() == "3 of 5 test samples correctly classified"


@pytest.mark.parametrize("n", [21, 1000])
def test_confusion_matrix_of_many_classes(results: Results, n: int) -> None:
    labels = np.arange(n)
    many = Samples(
        np.zeros((n, 1, 2, 2), np.uint8), labels, tuple(f"a long name {i}" for i in labels)
    )
    changed = dataclasses.replace(
        results, samples=many, predictions=Predictions(np.eye(n), np.eye(n), labels)
    )
    axes = drawn("confusion_matrix", changed).axes[0]
    assert not axes.texts
    assert len(axes.get_xticks()) < 21
    assert all(
        label.get_text().isdigit()
        for label in axes.get_xticklabels()
        if 0 <= label.get_position()[0] < n
    )


def test_short_cuts_names() -> None:
    assert [style.short(name, 6) for name in ("poodle", "poodles")] == ["poodle", "poodl…"]


RANKED = np.array([[0, 4], [0, 3], [0, 2], [0, 1.0]])  # surest of "yes" first


def test_average_precision_by_hand(results: Results) -> None:
    # Ranked: a hit, a miss, a hit. Precision is 1 up to recall 0.5, then 2/3.
    figure = drawn("precision_recall", predicted(results, RANKED, [1, 0, 1, 0]), classes=10)
    assert legend(figure) == ["no  0.8333", "yes  0.8333"]
    assert figure.get_suptitle() == "Precision and recall by class: mean average precision 0.8333"
    curve = np.asarray(figure.axes[0].lines[1].get_xydata()).round(3).tolist()
    assert [curve[-1], [0.5, 1], [1, 0.667]] == [point for point in curve[::-1] if point[1] > 0.5]


def test_curves_of_a_perfect_classifier(results: Results) -> None:
    perfect = predicted(results, RANKED, [1, 1, 0, 0])
    figure = drawn("precision_recall", perfect, classes=10)
    assert legend(figure) == ["no  1.0000", "yes  1.0000"]
    for line in figure.axes[0].lines:
        assert np.asarray(line.get_xydata()).min(axis=1).max() == 1
    assert legend(drawn("roc", perfect, classes=10, scale="log"))[:2] == [
        "no  1.0000",
        "yes  1.0000",
    ]


def test_roc_area_is_the_share_of_ordered_pairs(results: Results) -> None:
    # Of the four pairs of a yes and a no, one is in the wrong order.
    two_classes = predicted(results, RANKED, [1, 0, 1, 0])
    figure = drawn("roc", two_classes, classes=10, scale="linear")
    assert legend(figure) == ["no  0.7500", "yes  0.7500", "chance  0.5"]
    curve = np.asarray(figure.axes[0].lines[1].get_xydata())
    assert curve.tolist() == [[0, 0], [0, 0.5], [0.5, 0.5], [0.5, 1], [1, 1]]


def test_roc_log_axis_begins_at_one_sample(results: Results) -> None:
    (axes,) = drawn("roc", predicted(results, RANKED, [1, 0, 1, 0]), classes=10, scale="log").axes
    assert (axes.get_xscale(), axes.get_xlim()[0]) == ("log", 0.25)
    assert np.asarray(axes.lines[1].get_xdata()).min() == 0.25


def test_log_axis_has_plain_numbers(tmp_path: Path) -> None:
    figure = Figure()
    wide, narrow, small = figure.subplots(1, 3)
    wide.set(yscale="log", ylim=(1e-4, 1e4))
    narrow.set(yscale="log", ylim=(2, 7))
    small.set(yscale="log", ylim=(0.05, 0.9))
    style.save(figure, tmp_path / "logs.png")
    labels = [
        text.get_text() for axes in figure.axes for text in axes.get_yticklabels(which="both")
    ]
    assert {"0.0001", "1", "10000", "3", "0.2"} <= set(labels)
    assert not any("$" in label or "e-01" in label for label in labels)


@pytest.mark.parametrize("name", ["precision_recall", "roc"])
def test_curves_of_the_worst_classes(results: Results, settings: params.Table, name: str) -> None:
    logits = 9 * np.eye(12)[results.samples.labels]
    logits[:, 5] *= -1
    bad = dataclasses.replace(
        results, predictions=dataclasses.replace(results.predictions, logits=logits)
    )
    figure = drawn(name, bad, **settings[name] | {"classes": 3})
    assert legend(figure)[0].startswith("class 5  0.")
    assert len(legend(figure)) == 3 + (name == "roc")
    assert figure.get_suptitle().endswith("; the 3 worst of 12 classes")
    assert (
        FIGURES[name](predicted(results, RANKED, [1] * 4), **settings[name])
        == "all test samples are of one class"
    )


def test_probabilities_near_one_are_ranked(results: Results) -> None:
    logits = np.array([[0, 18], [0, 20]], dtype=np.float32)
    first, second = predicted(results, logits, [0, 1]).probabilities[:, 1]
    assert first < second < 1


def test_calibration_error_by_hand(results: Results, logged: dict[str, float]) -> None:
    # Ten samples 75 % sure and ten 55 % sure, six right of each: (0.15 + 0.05) / 2.
    logits = np.log([[3, 1]] * 10 + [[11, 9]] * 10)
    figure = drawn("calibration", predicted(results, logits, ([0] * 6 + [1] * 4) * 2), bins=10)
    assert logged == {"test_calibration_error": pytest.approx(0.1)}
    assert figure.get_suptitle().startswith("Expected calibration error 10.00%")
    above, below = (
        [bar for bar in axes.patches if isinstance(bar, Rectangle)] for axes in figure.axes
    )
    assert [(bar.get_x(), bar.get_height()) for bar in above[:2]] == [
        pytest.approx((x, 0.6)) for x in (0.5, 0.7)
    ]
    assert [bar.get_height() for bar in below] == [10, 10]


def test_grad_cam_shows_mistakes_then_classes(results: Results) -> None:
    logits = 9 * np.eye(12, dtype=np.float32)[results.samples.labels]
    logits[[20, 7], [3, 2]] = 18
    order = HeatMaps(np.array([20, 7, 0, 1]), np.zeros((4, 3, 3), np.float32), np.array([9, 9]))
    order.maps[0, 1, 1] = 1
    changed = dataclasses.replace(
        results,
        predictions=dataclasses.replace(results.predictions, logits=logits),
        views=dataclasses.replace(results.views, heat=order),
    )
    cells = drawn("grad_cam", changed, mistakes=1, classes=2, columns=6).axes
    assert [axes.get_title() for axes in cells[:3]] == [
        "true class 8\npredicted class 3 (100%)",
        "class 0 (100%)",
        "class 1 (100%)",
    ]
    assert [axes.title.get_color() for axes in cells[:3]] == [style.RED, "black", "black"]
    hot, cold = (np.asarray(cells[i].images[0].get_array(), int) for i in (0, 1))
    assert hot.shape == (117, 117, 3)
    image = results.samples.inputs[0, :, 0, 0].astype(float)
    assert cold[0, 0].tolist() == (0.8 * (image + image.mean()) / 2).round().tolist()
    assert (hot[58, 58] - cold[58, 58])[0] != 0


def test_grad_cam_of_a_network_without_maps(results: Results) -> None:
    none = dataclasses.replace(results, views=dataclasses.replace(results.views, heat=None))
    drawing = FIGURES["grad_cam"](none, mistakes=1, classes=1, columns=1)
    assert drawing == "the network has no feature map before its head"


# Of "yes" in this order: correct, correct, wrong, correct; "no" is predicted once, wrongly.
FIVE = np.log([[0.1, 0.9], [0.2, 0.8], [0.3, 0.7], [0.4, 0.6], [0.5001, 0.4999]])


@pytest.mark.parametrize(
    ("precision", "probability", "n_accepted", "n_correct"),
    [(0.75, 0.0, 4, 3), (0.76, 0.8, 2, 2), (1.0, 0.8, 2, 2)],
)
def test_threshold_is_the_smallest_that_reaches(
    results: Results, precision: float, probability: float, n_accepted: int, n_correct: int
) -> None:
    five = predicted(results, FIVE, [1, 1, 0, 1, 1])
    no, yes = thresholds.by_class(five, precision)
    assert (no.name, no.probability, no.recall, no.lowest) == ("no", None, 0, 0)
    assert (yes.name, yes.n_accepted, yes.n_correct) == ("yes", n_accepted, n_correct)
    assert yes.probability == probability
    assert yes.recall == n_correct / 4
    assert yes.lowest < yes.precision


def test_equal_probabilities_share_a_threshold(results: Results) -> None:
    equal = predicted(results, np.log([[0.1, 0.9], [0.3, 0.7], [0.3, 0.7]]), [1, 1, 0])
    _, yes = thresholds.by_class(equal, 1.0)
    assert (yes.n_accepted, yes.probability) == (1, 0.8)


def test_thresholds_of_many_classes_are_bounded(results: Results) -> None:
    figure = drawn("thresholds", results, precision=0.9, classes=5)
    (axes,) = figure.axes
    assert len(axes.patches) == len(axes.texts) == 5
    assert figure.get_suptitle().endswith("; 5 of 12 classes")


def test_decision_boundary_has_class_colours(plane: Results) -> None:
    plane.predictions.logits[:3] *= -1
    figure = drawn("decision_boundary", plane)
    (axes,) = figure.axes
    assert (
        figure.get_suptitle()
        == "Decision boundary: 37 of 40 test samples correctly classified (92.5%)"
    )
    (mesh,) = [artist for artist in axes.collections if isinstance(artist, QuadMesh)]
    colours = np.asarray(mesh.get_array())
    assert colours.shape == (5, 9, 3)
    full = 0.4 + 0.6 * np.array(style.COLORS[:2])  # where the network is sure
    assert colours[0, [0, -1]] == pytest.approx(full, abs=1e-3)
    assert colours[0, 4] == pytest.approx(np.ones(3))  # on the line it guesses
    (line, _) = [artist for artist in axes.collections if isinstance(artist, ContourSet)]
    assert np.asarray(line.get_paths()[0].vertices)[:, 0] == pytest.approx(np.zeros(5), abs=1e-6)


def test_decision_boundary_circles_misclassified(plane: Results) -> None:
    plane.predictions.logits[:3] *= -1
    figure = drawn("decision_boundary", plane)
    scattered = {
        artist.get_label(): np.asarray(artist.get_offsets())
        for artist in figure.axes[0].collections
    }
    for i, name in enumerate(("left", "right")):
        np.testing.assert_array_equal(
            scattered[name], plane.samples.inputs[plane.samples.labels == i]
        )
    np.testing.assert_array_equal(scattered["misclassified"], plane.samples.inputs[:3])
    assert legend(figure) == ["left", "right", "misclassified"]


def test_filters_of_one_channel(results: Results) -> None:
    weights = np.zeros((5, 1, 2, 2), dtype=np.float32)
    weights[1, 0, 0, 1] = -2
    one = dataclasses.replace(results, views=dataclasses.replace(results.views, filters=weights))
    cells = drawn("filters", one, rows=1, columns=3).axes
    assert len(cells) == 3
    assert {cell.images[0].get_clim() for cell in cells} == {(-2, 2)}
    assert cells[0].images[0].to_rgba(np.zeros(1))[0] == pytest.approx(
        [0.97, 0.97, 0.97, 1], abs=0.01
    )
    np.testing.assert_array_equal(cells[1].images[0].get_array(), weights[1, 0])


def test_filters_of_three_channels(results: Results) -> None:
    weights = np.zeros((2, 3, 2, 2), dtype=np.float32)
    weights[1, :2, 0, 1] = -2, 1
    three = dataclasses.replace(results, views=dataclasses.replace(results.views, filters=weights))
    _, second = drawn("filters", three, rows=4, columns=8).axes
    shown = np.asarray(second.images[0].get_array())
    assert shown[0, 1].tolist() == [0, 0.75, 0.5]
    assert (np.delete(shown.reshape(4, 3), 1, axis=0) == 0.5).all()
    two = dataclasses.replace(
        results, views=dataclasses.replace(results.views, filters=weights[:, :2])
    )
    assert (
        FIGURES["filters"](two, rows=4, columns=8)
        == "the first layer's weights have 2 channels, neither 1 nor 3"
    )


def test_feature_maps_are_a_row_for_each_layer(results: Results) -> None:
    image, *cells = drawn("feature_maps", results, channels=2).axes
    np.testing.assert_array_equal(
        image.images[0].get_array(), results.samples.inputs[0].transpose(1, 2, 0)
    )
    labels = [cell.get_ylabel() for cell in cells]
    assert labels == ["convolution 1\n9 × 9", "", "convolution 2\n4 × 4", ""]
    for cell, (name, channel) in zip(cells, [(n, c) for n in (1, 2) for c in (0, 1)], strict=True):
        np.testing.assert_array_equal(
            cell.images[0].get_array(), results.views.maps[f"convolution {name}"][channel]
        )


def test_tsne_logs_its_divergence(results: Results, logged: dict[str, float]) -> None:
    figure = drawn("tsne", results, of="features", samples=500, perplexity=5.0)
    assert set(logged) == {"tsne_kl_divergence"}
    assert (
        f"of 60 test samples' features (KL divergence {logged['tsne_kl_divergence']:.2f})"
        in figure.get_suptitle()
    )
    assert legend(figure) == [f"class {i}" for i in range(12)]


def test_tsne_dots_and_circles(results: Results) -> None:
    *dots, rings = (
        drawn("tsne", results, of="features", samples=500, perplexity=5.0).axes[0].collections
    )
    places = np.empty((60, 2))
    for i, dot in enumerate(dots):
        places[results.samples.labels == i] = dot.get_offsets()
        assert np.asarray(dot.get_facecolor())[0, :3] == pytest.approx(style.COLORS[i % 10])
    assert len(np.unique(places, axis=0)) == 60
    wrong = results.predictions.predicted != results.samples.labels
    np.testing.assert_array_equal(rings.get_offsets(), places[wrong])


def test_tsne_of_features_or_pixels(results: Results) -> None:
    for features in (np.zeros((60, 5)), np.arange(60.0).reshape(-1, 1)):
        dead = dataclasses.replace(results.predictions, features=features.astype(np.float32))
        same = dataclasses.replace(results, predictions=dead)
        answer = FIGURES["tsne"](same, of="features", samples=500, perplexity=5.0)
        assert answer == "fewer than two features differ among the samples"
    assert (
        "60 test samples' pixels"
        in drawn("tsne", same, of="pixels", samples=500, perplexity=5.0).get_suptitle()
    )


def test_tsne_of_raw_features(plane: Results) -> None:
    dead = dataclasses.replace(
        plane, predictions=dataclasses.replace(plane.predictions, features=np.zeros((40, 1)))
    )
    assert (
        "raw features"
        in drawn("tsne", dead, of="pixels", samples=40, perplexity=5.0).get_suptitle()
    )


@pytest.fixture(scope="module")
def digits() -> tuple[np.ndarray, np.ndarray]:
    """300 of scikit-learn's digits, and their labels."""
    inputs, labels = load_digits(return_X_y=True)
    return np.asarray(inputs)[:300], np.asarray(labels)[:300]


def knn_accuracy(points: np.ndarray, labels: np.ndarray) -> float:
    """The accuracy of the five nearest neighbours in the plane."""
    return float(cross_val_score(KNeighborsClassifier(5), points, labels, cv=5).mean())


def test_tsne_separates_the_digits(digits: tuple[np.ndarray, np.ndarray]) -> None:
    inputs, labels = digits
    points, divergence = tsne.embed(inputs, 30, seed=0)
    assert knn_accuracy(points, labels) > 0.9
    assert trustworthiness(inputs, points) > 0.97
    assert 0 < divergence < 1


def test_tsne_of_noise_separates_nothing(digits: tuple[np.ndarray, np.ndarray]) -> None:
    noise = np.random.default_rng(0).normal(size=digits[0].shape)
    points, _ = tsne.embed(noise, 30, seed=0)
    assert knn_accuracy(points, digits[1]) < 0.3


def test_tsne_repeats(digits: tuple[np.ndarray, np.ndarray]) -> None:
    first, second = (tsne.embed(digits[0][:100], 10, seed=0) for _ in range(2))
    np.testing.assert_array_equal(first[0], second[0])
    assert first[1] == second[1]


@pytest.mark.parametrize("n", [4, 5, 12])
def test_tsne_of_few_samples(digits: tuple[np.ndarray, np.ndarray], n: int) -> None:
    points, divergence = tsne.embed(digits[0][:n], (n - 1) / 3, seed=0)
    assert points.shape == (n, 2)
    assert np.isfinite(points).all()
    assert np.isfinite(divergence)


def test_tsne_writes_short_names(plane: Results) -> None:
    short = dataclasses.replace(
        plane, samples=dataclasses.replace(plane.samples, class_names=("0", "1"))
    )
    (axes,) = drawn("tsne", short, of="features", samples=10, perplexity=3.0).axes
    assert [text.get_text() for text in axes.texts] == [
        str(label) for label in plane.samples.labels[:10]
    ]
