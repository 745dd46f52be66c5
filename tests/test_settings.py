"""The settings of a repository."""

from pathlib import Path

import pytest
from repository import ROOT

from retrace import settings
from retrace.errors import ParamsError
from retrace.settings import Groups, Metrics, Params, PredictionsTable, Settings, Sweeps, Verify


def test_none_is_needed(tmp_path: Path) -> None:
    assert settings.load(tmp_path) == Settings()
    (tmp_path / "pyproject.toml").write_text("[project]\nname = 'x'\n")
    assert settings.load(tmp_path) == Settings()


def test_lab_has_folds() -> None:
    lab = settings.load(ROOT)
    assert lab.experiment == "${dataset}"
    assert lab.metrics == Metrics("test_accuracy")
    assert lab.groups == Groups(over="fold", of="folds")
    assert lab.params == Params(("seed",))
    assert lab.verify == Verify(exact=("download", "preprocess"))
    assert (lab.sweep.metric, lab.sweep.steps) == ("val_accuracy", "epochs")
    assert "dataset" in lab.sweep.fixed


def test_list_is_read(tmp_path: Path) -> None:
    (tmp_path / "retrace.toml").write_text("sweep = {fixed = ['a', 'b.c']}\n")
    assert settings.load(tmp_path).sweep == Sweeps(fixed=("a", "b.c"))


def test_retrace_toml_comes_first(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text("[tool.retrace]\nexperiment = 'b'\n")
    assert settings.load(tmp_path).experiment == "b"
    (tmp_path / "retrace.toml").write_text("experiment = 'a'\n")
    assert settings.load(tmp_path).experiment == "a"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("experiment = 1", "retrace.toml: experiment is 1; should be text"),
        (
            "experimnt = 'a'",
            "retrace.toml: experimnt is unknown; should be one of experiment, metrics, params",
        ),
        ("groups = 'fold'", "retrace.toml: groups is 'fold'; should be a table"),
        ("groups = {over = 'fold'}", "retrace.toml: groups.of is missing"),
        ("sweep = {fixed = 'a'}", "retrace.toml: sweep.fixed is 'a'; should be a list of texts"),
        ("sweep = {fixed = [1]}", "retrace.toml: sweep.fixed is [1]; should be a list of texts"),
        ("groups = {over = 1, of = 'n'}", "retrace.toml: groups.over is 1; should be text"),
        ("a =", "retrace.toml: not TOML: "),
        (
            "verify = {exact = 'fit'}",
            "retrace.toml: verify.exact is 'fit'; should be a list of texts",
        ),
        (
            "params.repeats = [1]",
            "retrace.toml: params.repeats is [1]; should be a list of texts",
        ),
        ("predictions = {actual = 'y'}", "retrace.toml: predictions.path is missing"),
    ],
)
def test_mistake_is_one_line(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "retrace.toml").write_text(text)
    with pytest.raises(ParamsError) as refused:
        settings.load(tmp_path)
    assert str(refused.value).startswith(message)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("text", "table"),
    [
        ("predictions = 'p.csv'", PredictionsTable("p.csv", "actual", "predicted")),
        (
            "predictions = {path = 'p.csv', actual = 'y', predicted = 'z', id = 'n'}",
            PredictionsTable("p.csv", "y", "z", "n"),
        ),
    ],
)
def test_predictions_are_a_path_or_a_table(
    tmp_path: Path, text: str, table: PredictionsTable
) -> None:
    (tmp_path / "retrace.toml").write_text(text)
    assert settings.load(tmp_path).predictions == table


def test_each_fault_is_a_line() -> None:
    table = {"experiment": 1, "m": 1, "groups": {"over": ["y"]}}
    with pytest.raises(ParamsError) as refused:
        settings.parse(Settings, table, "f: ")
    lines = str(refused.value).split("\n")
    assert [line.split(" is ")[0] for line in lines] == [
        *("f: m", "f: experiment", "f: groups.of", "f: groups.over")
    ]
