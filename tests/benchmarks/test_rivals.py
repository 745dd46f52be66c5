"""The comparison with Lightning, fastai and plain PyTorch: equal networks, the table, the pins."""

import re

import pytest
import rivals
import torch
from contenders import networks
from repository import ROOT
from rivals import CONTENDERS, MODULES, OURS, ROWS, Measured

from lab.models.networks import MODELS
from lab.params import checked
from retrace.pipeline import overrides, params_yaml

SHAPES = {"cnn": (1, 28, 28), "cifar_v3": (3, 32, 32)}


@pytest.mark.parametrize(
    "row", [row for row in ROWS if not row.job.get("frozen")], ids=lambda row: row.name
)
def test_contender_has_the_labs_network(row: rivals.Row) -> None:
    name = row.job["network"]
    values = params_yaml.read(ROOT / "params.yaml")
    model = row.ours.get("model", "cnn")
    settings = values["models"][model] | (
        {"name": name} if "name" in values["models"][model] else {}
    )
    shape = SHAPES.get(name, (3, 64, 64))
    trunk, head = MODELS[model](shape, row.job["n_classes"], **settings)
    other = networks.Classifier(name, row.job["n_classes"], frozen=False, dtype=torch.float32)
    lab = [*trunk.state_dict().values(), *head.state_dict().values()]
    theirs = list(other.state_dict().values())
    assert [each.shape for each in lab] == [each.shape for each in theirs]
    if name in SHAPES:
        images = torch.rand(2, *shape)
        for target, source in zip(theirs, lab, strict=True):
            target.copy_(source)
        trunk.eval()
        assert torch.allclose(other.eval()(images), head(trunk(images)), atol=1e-5)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_row_has_valid_parameters(row: rivals.Row) -> None:
    values = params_yaml.read(ROOT / "params.yaml")
    flat = overrides.flatten(values, keep_empty=True)
    assert row.ours.keys() <= flat.keys()
    p = checked(overrides.nest(flat | row.ours))
    for key in ("epochs", "batch_size", "lr"):
        assert getattr(p, key) == row.ours[key]


def measured(ours_s: float, ours_speed: float) -> Measured:
    result = Measured(where="here")
    for turn in range(3):
        for who in CONTENDERS:
            is_ours = who == OURS
            seconds = ours_s if is_ours else 30.0 + turn
            result.add(who, seconds, [1.0, ours_speed if is_ours else 1000.0], 0.99)
    limit = {"bfloat16": 200.0, "float32": 100.0, "precision": "bfloat16", "operations": 2e7}
    result.limits = [limit]
    return result


def test_table_compares_with_the_best() -> None:
    time, speed, accuracy = rivals.lines(ROWS[0], measured(15.5, 2000.0))
    assert "| 2.00 | 1.5: met | 3 |" in time
    assert "31.0 s (30.0..32.0)" in time
    assert "| 2.00 | 1.5: met | 3 |" in speed
    assert accuracy.count("99.00 %") == len(MODULES) + 1
    slow, _, _ = rivals.lines(ROWS[0], measured(31.0, 2000.0))
    assert "| 1.00 | 1.5: MISSED | 3 |" in slow


def test_limit_is_of_the_same_run() -> None:
    shown = rivals.limit_line(ROWS[0], measured(1.0, 2000.0))
    assert "| 40 (20% of bfloat16's) | 20 (10% of bfloat16's) | 200 | 100 |" in shown


def test_no_malicious_lightning_is_pinned() -> None:
    pins = (ROOT / "benchmarks/requirements.txt").read_text("utf-8")
    assert set(re.findall(r"^(?:pytorch-)?lightning==(\S+)", pins, re.MULTILINE)) == {"2.6.6"}
    shared = re.findall(
        r"^torch==\S+", (ROOT / "requirements.txt").read_text("utf-8"), re.MULTILINE
    )
    assert shared == re.findall(r"^torch==\S+", pins, re.MULTILINE)
