"""Params files in each format, and their values as DVC writes them to dvc.lock."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from dvc.utils.serialize import parse_py
from pipelines import write
from repository import Tree

from retrace.errors import ParamsError
from retrace.pipeline import lockfile, overrides, params_files
from retrace.pipeline.definition import Pipeline, Stage

FILES = {
    "params.yaml": """
lr: 1e-3
name: no
octal: 012
list: [1, {a: 2}, [3]]
none:
empty: {}
text: "é ü"
base: &base {depth: 2, deeper: {x: 1}}
models: {cnn: {<<: *base, width: 8}, mlp: {depth: 3}}
opt: {adam: {beta: 0.9}}
""",
    "settings.toml": "x = 1.5\n[table]\ny = [1, 2]\n[table.inner]\nz = 'a'\n",
    "whole.json": '{"a": {"b": [1, {"c": null}]}, "d": true, "e": {}, "1": {"2": 3}}',
    "no_suffix": "a: {b: 1}\n",
    "code.py": """
import os
lr: float = 0.1
sizes = (1, 2)
mixed = {"a": [1, (2, 3)]}
computed = os.cpu_count()
class Config:
    depth = 3
    class Inner:
        name = "x"
    def __init__(self):
        self.width = 4
        local = 5
def function():
    hidden = 6
""",
}
STAGES = {  # the entries of `params`, each in a stage of its own
    "keys": ["lr", "name", "octal", "none", "text"],
    "lists": ["list", "list.0", "list.1.a"],
    "tables": ["models", "models.cnn.deeper", "empty"],
    "wildcards": ["models.*.width", "opt.a*", "l?"],
    "toml": [{"settings.toml": ["x", "table.inner", "table.y"]}],
    "toml_whole": [{"settings.toml": None}],
    "json": [{"whole.json": ["a.b", "1.2"]}],
    "json_whole": [{"whole.json": []}],
    "other": [{"no_suffix": ["a.b"]}],
    "python": [
        {"code.py": ["lr", "sizes", "mixed", "Config.depth", "Config.Inner", "Config.width"]}
    ],
    "python_whole": [{"code.py": None}],
    "yaml_whole": [{"params.yaml": None}],
}


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run a stage for each of STAGES with DVC."""
    stages = {name: {"cmd": "true", "params": params} for name, params in STAGES.items()}
    files = {**FILES, "dvc.yaml": json.dumps({"stages": stages})}
    root = write(tmp_path_factory.mktemp("params"), files)
    Tree(root, tmp_path_factory.mktemp("cache")).run("dvc", "repro", "--quiet")
    return root


def keys_by_file(name: str) -> Mapping[str, tuple[str, ...]]:
    keys: dict[str, tuple[str, ...]] = {}
    for entry in STAGES[name]:
        table = {"params.yaml": [entry]} if isinstance(entry, str) else entry
        for file, own in table.items():
            keys[file] = (*keys.get(file, ()), *(own or ()))
    return keys


@pytest.mark.parametrize("name", STAGES)
def test_values_are_those_of_dvc_lock(ran: Path, name: str) -> None:
    keys = keys_by_file(name)
    stage = Stage(name, ("true",), params=keys)
    locked = lockfile.read(ran, Pipeline({name: stage}))[name].params
    selected = {
        file: params_files.select(params_files.read(ran / file), own) for file, own in keys.items()
    }
    assert selected == {
        file: overrides.flatten(values, keep_empty=True) for file, values in locked.items()
    }


def test_selected_keys_are_flat() -> None:
    values = {"a": {"b": {"c": 1}, "d": {}}, "e": (1, [2, (3,)]), "f": 0}
    assert params_files.select(values, ["a", "e"]) == {"a.b.c": 1, "a.d": {}, "e": [1, [2, [3]]]}
    assert params_files.select(values, ["a.*.c"]) == {"a.*.c": 1}
    assert params_files.select(values, []) == {"a.b.c": 1, "a.d": {}, "e": [1, [2, [3]]], "f": 0}


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("b", "b: no parameter has this name"),
        ("a.x.y", "a.x.y: no parameter has this name"),
        ("a.*", "a.*: several parameters match; DVC allows only one"),
        ("z*", "z*: no parameter has this name"),
    ],
)
def test_key_must_match_one_value(key: str, message: str) -> None:
    with pytest.raises(ParamsError) as raised:
        params_files.select({"a": {"x": 1, "y": 2}}, [key])
    assert str(raised.value) == message


PYTHON = """
'''docstring'''
x: int
y: int = -1
a = b = 2
c, d = 1, 2
e["k"] = 3
f.g = 4
self.h = 5
i = {**{}}
j = {1: "a", "b": {2}}
k = "a" "b"
l = f"{x}"
m = 1 + 2
n = set()
o = None
y += 1
if True:
    p = 1
class A(B):
    x = 1
    self.y = 2
    async def __init__(self): self.z = 3
    class C:
        def __init__(self):
            self.a = 1
            self.b: int = 2
            other.c = 3
            self.d.e = 4
            class D:
                f = 5
    def method(self): self.g = 6
class Empty: pass
def __init__(self):
    self.q = 7
    r = 8
"""


def test_python_is_read_as_by_dvc() -> None:
    values = params_files.parse(PYTHON.encode(), Path("code.py"))
    assert values == parse_py(PYTHON, "code.py")
    assert values["A"] == {"x": 1, "y": 2, "C": {"a": 1, "b": 2, "D": {"f": 5}}}
    assert (values["q"], values["h"]) == (7, 5)


def test_python_is_not_run(tmp_path: Path) -> None:
    file = tmp_path / "code.py"
    file.write_text("x = 1\nraise SystemExit(3)\n")
    assert params_files.read(file) == {"x": 1}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.yaml", b"a: [", "a.yaml: not YAML: "),
        ("a.yaml", b"a: 1\na: 2", "a.yaml: not YAML: "),
        ("a.yaml", b"[" * 20_000, "a.yaml: not YAML: more than 10,000 brackets"),
        ("a.yaml", b"a: &a [*a]", "a.yaml: not YAML: more than 1,000,000 values"),
        ("a.yaml", b"\xff", "a.yaml: not YAML: 'utf-8' codec"),
        ("a.yml", b"[1]", "a.yml: should be a table"),
        ("a.YAML", b"text", "a.YAML: should be a table"),
        ("a.toml", b"a = ", "a.toml: not TOML: Invalid value"),
        ("a.json", b"{", "a.json: not JSON: Expecting property name"),
        ("a.json", b"3", "a.json: should be a table"),
        ("a.py", b"def", "a.py: not Python: "),
        ("a.py", b"a = {[]: 1}", "a.py: not Python: unhashable type"),
        ("a.py", b"\0", "a.py: not Python: source code"),
    ],
)
def test_invalid_file_is_one_line(name: str, content: bytes, message: str) -> None:
    with pytest.raises(ParamsError) as raised:
        params_files.parse(content, Path(name))
    assert str(raised.value).startswith(message)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("name", ["a.yaml", "a.json"])
@pytest.mark.parametrize("content", [b"", b"null", b"[]", b"{}"])
def test_nothing_is_an_empty_table(name: str, content: bytes) -> None:
    if name == "a.json" and not content:
        return
    assert params_files.parse(content, Path(name)) == {}


@pytest.mark.parametrize("name", ["no.yaml", "folder"])
def test_missing_file_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(ParamsError, match=rf"{name}: .*; dvc.yaml names this params file"):
        params_files.read(tmp_path / name)


def test_shared_values_are_allowed() -> None:
    text = b"base: &base {a: {b: 1}}\none: *base\ntwo: {<<: *base, c: 2}\n1: {2: 3}\n"
    values: dict[Any, Any] = params_files.parse(text, Path("params.yaml"))
    assert values["one"] == {"a": {"b": 1}}
    assert values["two"] == {"a": {"b": 1}, "c": 2}
    assert params_files.select(values, ["one", "1"]) == {"one.a.b": 1, "1.2": 3}
