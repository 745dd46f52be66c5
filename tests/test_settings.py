"""The settings of a repository."""

from pathlib import Path

import pytest
from repository import ROOT

from retrace import settings
from retrace.errors import ParamsError
from retrace.settings import Groups, Metrics, Settings, Sweeps


def test_none_is_needed(tmp_path: Path) -> None:
    assert settings.load(tmp_path) == Settings()
    (tmp_path / "pyproject.toml").write_text("[project]\nname = 'x'\n")
    assert settings.load(tmp_path) == Settings()


def test_lab_has_folds() -> None:
    lab = settings.load(ROOT)
    assert lab.experiment == "${dataset}"
    assert lab.metrics == Metrics("test_accuracy")
    assert lab.groups == Groups(over="fold", of="folds")
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
            "retrace.toml: experimnt is unknown; should be one of experiment, metrics, ",
        ),
        ("groups = 'fold'", "retrace.toml: groups is 'fold'; should be a table"),
        ("groups = {over = 'fold'}", "retrace.toml: groups.of is missing"),
        ("sweep = {fixed = 'a'}", "retrace.toml: sweep.fixed is 'a'; should be a list of texts"),
        ("sweep = {fixed = [1]}", "retrace.toml: sweep.fixed is [1]; should be a list of texts"),
        ("groups = {over = 1, of = 'n'}", "retrace.toml: groups.over is 1; should be text"),
        ("a =", "retrace.toml: not TOML: "),
    ],
)
def test_mistake_is_one_line(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "retrace.toml").write_text(text)
    with pytest.raises(ParamsError) as refused:
        settings.load(tmp_path)
    assert str(refused.value).startswith(message)
    assert "\n" not in str(refused.value)
