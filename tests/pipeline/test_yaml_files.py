"""YAML as DVC parses it, and files that would crash or fill a process."""

import re
from typing import Any

import pytest
from dvc.utils import serialize
from hypothesis import given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML, YAMLError

from retrace.pipeline import yaml_files

SCALARS = [
    "-_",
    "2024-13-01",
    "0001-01-01T00:00:00+10:00",
    "no",
    "yes",
    "on",
    "off",
    "y",
    "n",
    "true",
    "True",
    "TRUE",
    "tRUE",
    "false",
    "null",
    "Null",
    "~",
    "NULL",
    "nil",
    "1e3",
    "5e-05",
    "5e-5",
    "0.00005",
    "1e+20",
    "1E-3",
    "1.e5",
    ".5",
    "-.5",
    ".5e-3",
    ".5e3",
    "1_000",
    "1_000.5",
    "012",
    "0o12",
    "0x1F",
    "0b11",
    "-0x1f",
    "+12",
    "1:30",
    "190:20:30",
    "1.5.2",
    ".inf",
    "-.Inf",
    ".nan",
    "1e",
    "0o8",
    "08",
    "0_",
    "2024-01-02",
    "2024-1-2",
    "12345678901234567890",
    '"no"',
    "'yes'",
    "a",
    "b:c",
    "<a",
    "1-2",
    "-",
]

LIST_KEY = re.compile(r"[]}]'*\s*:|\?")


@pytest.mark.parametrize("text", SCALARS)
def test_scalar_is_that_of_ruamel(text: str) -> None:
    assert repr(_parsed(f"[{text}]")) == repr(_parsed_by_ruamel(f"[{text}]"))


@given(st.text("0123456789abcdefox_+-.:eEtTnN~ ", min_size=1, max_size=12))
@settings(max_examples=300, deadline=None, derandomize=True)
def test_any_scalar_is_that_of_ruamel(text: str) -> None:
    assert repr(_parsed(f"k: {text}")) == repr(_parsed_by_ruamel(f"k: {text}"))


@pytest.mark.parametrize("text", [text for text in SCALARS if "+10:00" not in text])
def test_key_is_that_of_ruamel(text: str) -> None:
    """Keys may be numbers, booleans, dates or nothing."""
    assert repr(_parsed(f"{text}: 1")) == repr(_parsed_by_ruamel(f"{text}: 1"))


VALUES = st.one_of(st.floats(), st.integers(), st.booleans(), st.none(), st.dates(), st.text())


@given(st.dictionaries(st.one_of(st.text(), st.integers(), st.booleans()), VALUES, max_size=3))
@settings(max_examples=200, deadline=None, derandomize=True)
def test_lock_has_the_values_of_params(values: dict[Any, Any]) -> None:
    """DVC reads params.yaml and writes what it has read to dvc.lock, such as 5e-05 for 0.00005."""
    text = serialize.dumps_yaml({"params": values})
    assert repr(_parsed(text)) == repr(_parsed_by_ruamel(text))


# A key that is a list or a table is left out: Python has none, and each parser says so differently.
@given(st.text("ab1:,[]{}-' ", min_size=1, max_size=10).filter(lambda t: not LIST_KEY.search(t)))
@settings(max_examples=500, deadline=None, derandomize=True)
def test_any_list_is_that_of_ruamel(text: str) -> None:
    assert repr(_parsed(f"k: [{text}]")) == repr(_parsed_by_ruamel(f"k: [{text}]"))


@pytest.mark.parametrize(
    "text",
    [
        "a: &x {b: 1, c: 2}\nd: {<<: *x, c: 3}\ne: *x\n",
        "a: &x {b: 1}\nc: &y {d: 2}\ne: {<<: [*x, *y], b: 3}\n",
        "- |\n  a\n  b\n- >-\n  c\n  d\n",
        "é: 'ü ß'\n",
        "",
        "a:\n- b\n-\n",
    ],
)
def test_document_is_that_of_ruamel(text: str) -> None:
    assert _parsed(text) == _parsed_by_ruamel(text)


@pytest.mark.parametrize("text", ["a: 1\na: 2\n", "x:\n  y: {b: 1, b: 2}\n"])
def test_key_occurs_once(text: str) -> None:
    with pytest.raises(yaml_files.YAMLError, match="the key '[ab]' occurs twice"):
        yaml_files.parse(text)


@pytest.mark.parametrize("level", ["[", "- ", "{a: "])
def test_deep_text_is_refused(level: str) -> None:
    """Its parser, libyaml, would end the process."""
    with pytest.raises(yaml_files.YAMLError, match="more than 10,000 brackets"):
        yaml_files.parse(level * 200_000)


def test_growing_aliases_are_refused() -> None:
    lines = [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12)]
    with pytest.raises(yaml_files.YAMLError, match="more than 1,000,000 values"):
        yaml_files.parse("\n".join(["a0: &a0 [1]", *lines]))


def test_alias_of_itself_is_refused() -> None:
    with pytest.raises(yaml_files.YAMLError, match="more than 1,000,000 values"):
        yaml_files.parse("a: &a [*a]")


def _parsed(text: str) -> object:
    try:
        return yaml_files.parse(text)
    except yaml_files.YAMLError:
        return "invalid"


def _parsed_by_ruamel(text: str) -> object:
    try:
        return YAML(typ="safe").load(text)
    except (YAMLError, ValueError, IndexError, OverflowError):
        return "invalid"
