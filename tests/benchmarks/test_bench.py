"""The comparison with the tutorials: networks of equal size, and verdicts on the ratios."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import bench
import gpu
import numpy as np
import pytest
import scale
import torch
from bench import ROWS, SAME_ACCURACY, SAME_RECIPE, Measured, Row
from overhead import edited
from repository import ROOT
from stub_clone import Stub

from lab import paths, recipes
from lab.data import storage
from lab.data.datasets import mnist
from lab.data.samples import Samples
from lab.data.storage import Scale
from lab.models import classifier
from lab.params import Choice
from retrace.errors import RetraceError
from retrace.system import files

TRAININGS = sorted({row.tutorial for row in ROWS})
ROW = Row("some", SAME_RECIPE, "mnist_cnn", "mnist", "steps 1", "steps 1", target=2, stretch=4)


def samples(tutorial: str, n: int = 300) -> Samples:
    """Return `n` samples that fit a tutorial's network, of ten classes or two."""
    random = np.random.default_rng(0)
    if tutorial == "circles":
        return Samples(random.random((n, 2), np.float32), np.arange(n) % 2, ("in", "out"))
    shape = (3, 32, 32) if tutorial.startswith(("cifar", "vgg")) else (1, 28, 28)
    return Samples(
        random.integers(0, 256, (n, *shape), np.uint8), np.arange(n) % 10, tuple("0123456789")
    )


@pytest.mark.filterwarnings(
    "ignore:This DataLoader will create 4 worker processes", "ignore:Converting a tensor with"
)
@pytest.mark.parametrize("tutorial", sorted(set(TRAININGS) - {"vgg16"}))
def test_tutorial_loop_takes_every_sample(tutorial: str) -> None:
    split = samples(tutorial)
    taught = import_module(f"tutorials.{tutorial}").Tutorial(split, split)
    assert sum(taught.epoch()) == 300
    assert 0 <= taught.test() <= 1


@pytest.mark.filterwarnings("ignore:This DataLoader will create 4 worker processes")
@pytest.mark.parametrize(
    "row", [row for row in ROWS if row.kind == SAME_RECIPE and row.tutorial in TRAININGS]
)
def test_networks_have_equal_size(row: Row) -> None:
    values = recipes.load(row.recipe).values | row.changes
    split = samples(row.tutorial)
    network = Choice(name=values["model"], settings=values["models"][values["model"]])
    with torch.device("meta" if row.tutorial == "vgg16" else "cpu"):
        module = import_module(f"tutorials.{row.tutorial}")
        taught = module.network() if row.tutorial == "vgg16" else module.Tutorial(split, split)
    ours = classifier.build(classifier.config_of(network, split, Scale((0.0,), (1.0,))))
    assert sum(weight.numel() for weight in ours.parameters()) == n_weights(taught)


def n_weights(taught: object) -> int:
    """Count the network's weights, whatever name the tutorial gives it."""
    if isinstance(taught, torch.nn.Module):
        return sum(weight.numel() for weight in taught.parameters())
    attributes = vars(taught)
    tensors = [
        value
        for value in attributes.values()
        if isinstance(value, torch.Tensor) and value.requires_grad
    ]
    networks = [value for name, value in attributes.items() if name in ("cnn", "model")]
    return sum(map(n_weights, networks)) + sum(tensor.numel() for tensor in tensors)


@pytest.mark.long
@pytest.mark.parametrize(
    ("which", "what", "n"),
    [
        ("taught", "steps", 3),
        ("ours", "steps", 3),
        ("taught", "epochs", 1),
        ("ours", "loop", 1),
        ("ours", "tests", 2),
        ("ours", "again", 1),
    ],
)
def test_side_reports_time_and_samples(folder: Path, which: str, what: str, n: int) -> None:
    shutil.copytree(ROOT / "stages", folder / "stages")
    edited(Stub(folder), {"epochs: 5": "epochs: 1", "batch_size: 128": "batch_size: 16"})
    for path in (paths.TRAIN, paths.VALIDATION, paths.TEST):
        path.parent.mkdir(parents=True, exist_ok=True)
        storage.save(path, samples("mnist", 800), Scale((33.0,), (78.0,)))
    command = [
        sys.executable,
        str(ROOT / "benchmarks" / "side.py"),
        which,
        "mnist",
        what,
        str(n),
        "0",
    ]
    env = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    ended = subprocess.run(command, env=env, check=True, capture_output=True, text=True)
    output = json.loads(ended.stdout.splitlines()[-1])
    expected = {"steps": n * (16 if which == "ours" else 50), "epochs": 800, "tests": 1600}
    assert output.get("samples") == expected.get(what)
    assert output["seconds"] > 0
    assert ("accuracy" in output) == (what != "steps")
    if what == "again":
        assert len(output["weights"]) == 2
        assert len(set(output["weights"])) == 1
        assert output["free_s"] > 0


def measured(**changed: object) -> Measured:
    values = {
        "unit": "samples/s",
        "taught": [1.0, 2.0, 3.0],
        "ours": [6.0, 6.0, 6.0],
        "accuracies": [],
    }
    return Measured(**(values | changed))  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("result", "verdict"),
    [
        (measured(), "met"),
        (measured(ours=[8.0, 8.0, 9.0]), "stretch"),
        (measured(ours=[3.9] * 3), "MISSED"),
        (measured(unit="s", taught=[8.0, 9.0, 8.0], ours=[2.0] * 3), "stretch"),
    ],
)
def test_verdict_is_from_medians(result: Measured, verdict: str) -> None:
    assert result.verdict(ROW) == verdict


def test_fast_but_inaccurate_is_missed() -> None:
    row = Row(
        "some",
        SAME_ACCURACY,
        "mnist_fast",
        "mnist",
        "steps 1",
        "loop 1",
        35,
        60,
        epochs=20,
        reaches=0.99,
    )
    fast = measured(unit="s", taught=[900.0], ours=[9.0], accuracies=[0.9899])
    assert fast.verdict(row) == "MISSED: 98.99 %"
    assert (
        measured(unit="s", taught=[900.0], ours=[9.0], accuracies=[0.99]).verdict(row) == "stretch"
    )


def test_tutorial_time_covers_all_epochs() -> None:
    row = Row("some", SAME_ACCURACY, "mnist_fast", "mnist", "steps 1", "loop 1", 35, 60, epochs=20)
    output = {"samples": 500.0, "seconds": 2.0, "of": 1000.0}
    assert bench.figure(output, row, by_speed=False) == 80
    assert bench.figure(output, row, by_speed=True) == 250
    assert bench.figure({"seconds": 3.0}, ROW, by_speed=False) == 3


def test_busy_machine_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "UPLOADS_S", 0.0)
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as busy:
        try:
            with pytest.raises(
                RetraceError, match=r"other processes use \d+ % of a core, more than 20 %"
            ):
                bench.demand_quiet()
        finally:
            busy.kill()


def test_record_and_page_are_written(folder: Path) -> None:
    for path in (bench.RECORD, bench.PICTURE):
        path.parent.mkdir(parents=True)
    bench.PAGE.write_text(f"before\n{bench.BEGIN}old\n{bench.END}\nafter\n")
    measurements = {row.name: measured(accuracies=[1.0]) for row in ROWS[:3]}
    bench.write(measurements)
    assert bench.recorded() == measurements
    text = bench.PAGE.read_text()
    assert text.startswith(f"before\n{bench.BEGIN}| on two CPU cores |")
    assert "old" not in text
    assert text.count("\n| ") == 2 + 3
    assert bench.PICTURE.read_bytes().startswith(b"\x89PNG")


def test_page_shows_record(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    record = json.loads((ROOT / bench.RECORD).read_text())["rows"]
    text = (ROOT / bench.PAGE).read_text().split(bench.BEGIN)[1].split(bench.END)[0]
    assert list(record) == [row.name for row in ROWS]
    assert text.splitlines() == list(bench.table(bench.recorded()))


@pytest.mark.parametrize(
    ("changed", "verdict"),
    [
        ({}, "met"),
        ({"seconds": 1.0}, "stretch"),
        ({"seconds": 3.1}, "MISSED"),
        ({"accuracy": 0.93}, "MISSED"),
        ({"weights": ["a", "a", "b"]}, "MISSED"),
        ({"free_s": 1.8}, "MISSED"),
        ({"free_s": 1.9}, "met"),
        ({"is_recorded": False}, "MISSED"),
    ],
)
def test_gpu_verdict_needs_accuracy_and_bits(changed: dict[str, Any], verdict: str) -> None:
    row = gpu.Row("some", "cifar10_airbench", 3, 1.3, reaches=0.94)
    values = {
        "seconds": 2.0,
        "free_s": 2.0,
        "accuracy": 0.94,
        "weights": ["a", "a", "a"],
        "where": "a GPU",
    }
    values["is_recorded"] = True
    assert gpu.Measured(**(values | changed)).verdict(row) == verdict


def test_gpu_page_shows_record(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    text = (ROOT / gpu.PAGE).read_text().split(gpu.BEGIN)[1].split(gpu.END)[0]
    assert text.splitlines() == list(gpu.table(gpu.recorded()))


@pytest.mark.parametrize("row", gpu.ROWS)
def test_gpu_rows_are_recipes(row: gpu.Row) -> None:
    assert recipes.load(row.recipe).values.keys() >= row.changes.keys()


def test_gpu_missing_measures_nothing() -> None:
    env = os.environ | {"PYTHONPATH": str(ROOT / "src"), "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, str(ROOT / "benchmarks" / "gpu.py"), "--write"]
    ended = subprocess.run(command, cwd=ROOT, env=env, check=False, capture_output=True, text=True)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.startswith("torch sees no GPU here")
    assert ended.stderr.count("\n") == 1


@pytest.mark.long
def test_gpu_measure_runs_on_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(files, "root", lambda: tmp_path)  # so that its cache is used
    loop = gpu.Row("digits", "digits_tsne", 60, 30)
    stage = replace(loop, cold=True)
    monkeypatch.setattr(gpu, "ROWS", (loop, stage))
    clone = gpu.prepared(tmp_path, loop)
    for row in loop, stage:
        result = gpu.measure(clone, row)
        assert len(result.weights) == gpu.TIMES + 2
        assert len(set(result.weights)) == 1
        assert result.accuracy > 0.8
        assert 0 < result.seconds < 60
        assert bool(result.free_s) == (row is loop)
        assert result.where.startswith("cpu, at ")


@pytest.mark.parametrize("n", [5, 250])
def test_synthetic_samples_read_as_mnist(
    folder: Path, monkeypatch: pytest.MonkeyPatch, n: int
) -> None:
    monkeypatch.setattr(scale, "BLOCK", 100)
    scale.synthetic(paths.RAW, n)
    splits = mnist.read(paths.RAW)
    assert splits.test is not None
    assert (splits.train.inputs.shape, len(splits.test)) == ((n, 1, 28, 28), 1000)
    assert set(splits.train.labels[:5]) == {0, 1, 2, 3, 4}


def test_edited_refuses_unexpected_lines(folder: Path) -> None:
    clone = Stub(folder)
    edited(clone, {"epochs: 5": "epochs: 1"})
    assert "\nepochs: 1" in paths.PARAMS.read_text()
    with pytest.raises(RetraceError, match="has not one line 'epochs: 5'"):
        edited(clone, {"epochs: 5": "epochs: 1"})


def test_photograph_is_jpeg(folder: Path) -> None:
    first = scale.photograph(0)
    assert 5_000 < len(first) < 40_000
    assert first != scale.photograph(1)
    Path("a.jpg").write_bytes(first)
    scale.decode([Path("a.jpg")])
