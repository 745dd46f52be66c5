"""Which stages make a metric, on which data, and which parameters matter for it."""

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from pipelines import write
from repository import ROOT

from retrace.pipeline import evaluation
from retrace.pipeline.workspace import Workspace

FIT = {"cmd": "python fit.py", "deps": ["fit.py", "split.csv"], "outs": ["model.pkl"]}
SCORE = {
    "cmd": "python score.py",
    "deps": ["score.py", "split.csv", "model.pkl"],
    "metrics": ["scores.json"],
}
SPLIT = {"cmd": "x", "deps": ["raw.csv"], "outs": ["split.csv"]}
MODEL = {"m": {"path": "model.pkl", "type": "model"}}


@pytest.fixture
def workspace(tmp_path: Path) -> Callable[..., Workspace]:
    def make(
        *, artifacts: object = None, files: dict[str, str] | None = None, **stages: object
    ) -> Workspace:
        document = {"stages": stages, "artifacts": artifacts or {}}
        texts = {"dvc.yaml": yaml.safe_dump(document, sort_keys=False)}
        return Workspace(write(tmp_path, texts | (files or {})))

    return make


Make = Callable[..., Workspace]


def test_model_is_no_data(workspace: Make) -> None:
    project = workspace(split=SPLIT, fit=FIT, score=SCORE)
    assert evaluation.data_of(project, "score") == ["split.csv"]
    assert evaluation.data_of(project, "fit") == ["split.csv"]


def test_model_beside_the_data_needs_its_type(workspace: Make) -> None:
    apart = SCORE | {"deps": ["score.py", "held_out.csv", "model.pkl"]}
    held_out = {"cmd": "x", "deps": ["other.csv"], "outs": ["held_out.csv"]}
    stages = {"split": SPLIT, "held_out": held_out, "fit": FIT, "score": apart}
    assert evaluation.data_of(workspace(**stages), "score") == ["held_out.csv", "model.pkl"]
    named = workspace(artifacts=MODEL, **stages)
    assert evaluation.data_of(named, "score") == ["held_out.csv"]


def test_predictions_lead_to_their_data(workspace: Make) -> None:
    predict = {"cmd": "x", "deps": ["split.csv", "model.pkl"], "outs": ["p.csv"]}
    score = SCORE | {"deps": ["score.py", "p.csv"]}
    stages = {"split": SPLIT, "fit": FIT, "predict": predict, "score": score}
    assert evaluation.data_of(workspace(artifacts=MODEL, **stages), "score") == ["split.csv"]


def test_table_in_git_is_data(workspace: Make) -> None:
    only = FIT | {"deps": ["fit.py", "data.csv"], "metrics": ["scores.json"]}
    files = {"data.csv": "1\n", "fit.py": ""}
    project = workspace(fit=only, files=files)
    assert evaluation.data_of(project, "fit") == ["data.csv"]


def test_metric_belongs_to_its_file(workspace: Make) -> None:
    first = {"cmd": "x", "metrics": ["a.json", "b.yaml"]}
    second = {"cmd": "y", "metrics": ["c.json"]}
    files = {"a.json": '{"x": 1}', "b.yaml": "y: {z: 2}\n", "c.json": '{"w": 3}'}
    project = workspace(first=first, second=second, files=files)
    assert evaluation.stages_of(project, "y.z") == ("first",)
    assert evaluation.stages_of(project, "w") == ("second",)
    assert evaluation.stages_of(project, "unknown") == ("first", "second")


def test_params_of_later_stages_make_no_difference(workspace: Make) -> None:
    fit = FIT | {"params": ["lr", "net.*.width", {"other.toml": ["a"]}]}
    draw = {
        "cmd": "x",
        "deps": ["model.pkl"],
        "params": ["lr", "net", "color", {"other.toml": []}],
    }
    project = workspace(split=SPLIT, fit=fit, score=SCORE, draw=draw)
    is_later = evaluation.is_later(project.pipeline, ("score",))
    later = ("color", "color.deep", "net.depth", "other.toml:b")
    assert all(map(is_later, later))
    assert not any(map(is_later, ("lr", "net.a.width", "other.toml:a", "unread")))
    assert not any(map(evaluation.is_later(project.pipeline, ()), later))


def test_lab_is_evaluated_on_the_test_split() -> None:
    lab = Workspace(ROOT)
    assert evaluation.stages_of(lab, "test_accuracy") == ("evaluate",)
    assert evaluation.data_of(lab, "evaluate") == ["data/processed/test.safetensors"]
    assert evaluation.is_later(lab.pipeline, ("evaluate",))("figures.roc.scale")
    assert not evaluation.is_later(lab.pipeline, ("evaluate",))("models.mlp.hidden")
