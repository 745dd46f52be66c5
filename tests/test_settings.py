"""The settings of a repository."""

from dataclasses import dataclass, field
from pathlib import Path

import pytest
from repository import ROOT

from retrace import settings
from retrace.errors import ParamsError
from retrace.settings import Groups, Metrics, Settings


def test_none_is_needed(tmp_path: Path) -> None:
    assert settings.load(tmp_path) == Settings()
    (tmp_path / "pyproject.toml").write_text("[project]\nname = 'x'\n")
    assert settings.load(tmp_path) == Settings()


def test_lab_has_folds() -> None:
    assert settings.load(ROOT) == Settings(
        "${dataset}", Metrics("test_accuracy"), Groups(over="fold", of="folds")
    )


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
            "retrace.toml: experimnt is unknown; should be one of experiment, metrics, groups",
        ),
        ("groups = 'fold'", "retrace.toml: groups is 'fold'; should be a table"),
        ("groups = {over = 'fold'}", "retrace.toml: groups.of is missing"),
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


@dataclass(frozen=True)
class Inner:
    """A table."""

    name: str
    n: int = 1


@dataclass(frozen=True)
class Typed:
    """A setting of each type."""

    flag: bool = False
    n: int = 0
    rate: float | None = None
    names: tuple[str, ...] = ()
    steps: list[float] = field(default_factory=list)
    columns: dict[str, str] = field(default_factory=dict)
    inner: Inner | None = None


def test_types_are_those_of_toml() -> None:
    table = {"flag": True, "n": 2, "rate": 1, "names": ["a"], "steps": [1, 0.5]}
    table |= {"columns": {"a": "b"}, "inner": {"name": "c"}}
    expected = Typed(True, 2, 1, ("a",), [1, 0.5], {"a": "b"}, Inner("c"))
    assert settings.parse(Typed, table, "") == expected
    assert settings.parse(Typed, {}, "") == Typed()


@pytest.mark.parametrize(
    ("key", "value", "allowed"),
    [
        ("flag", 1, "true or false"),
        ("n", True, "an integer"),
        ("n", 1.0, "an integer"),
        ("rate", "1", "a number"),
        ("names", "a", "a list of texts"),
        ("names", ["a", 1], "a list of texts"),
        ("steps", ["a"], "a list of numbers"),
        ("columns", {"a": 1}, "a table of texts"),
        ("inner", 1, "a table"),
    ],
)
def test_wrong_type_names_the_right_one(key: str, value: object, allowed: str) -> None:
    with pytest.raises(ParamsError) as refused:
        settings.parse(Typed, {key: value}, "")
    assert str(refused.value) == f"{key} is {value!r}; should be {allowed}"


def test_each_fault_is_a_line() -> None:
    with pytest.raises(ParamsError) as refused:
        settings.parse(Typed, {"n": "x", "m": 1, "inner": {"n": "y"}}, "f: ")
    lines = str(refused.value).split("\n")
    assert [line.split(" is ")[0] for line in lines] == [
        *("f: m", "f: n", "f: inner.name", "f: inner.n")
    ]
