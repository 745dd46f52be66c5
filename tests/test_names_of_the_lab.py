"""The engine names no stage, parameter, path or metric of the lab."""

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from repository import ROOT

ENGINE = ROOT / "src" / "retrace"
DVC_YAML = yaml.safe_load((ROOT / "dvc.yaml").read_text())

STAGES = set(DVC_YAML["stages"])
PARAMS = set(yaml.safe_load((ROOT / "params.yaml").read_text()))
PATHS = {
    path if isinstance(path, str) else next(iter(path))
    for stage in DVC_YAML["stages"].values()
    for kind in ("outs", "metrics", "plots")
    for path in stage.get(kind, [])
} | {"data/images", "models/model"}
METRICS = {
    *json.loads((ROOT / "reports/metrics.json").read_text()),
    *("train_s", "images_per_s", "kept_epoch"),
}
FOLDERS = ("src/", "stages/")

# Names that are not those of the lab, or that old runs have.
ALLOWED = {
    ("cli/sweep.py", "val_loss"),  # in examples, as a common name
    ("compare/page.py", "train"),  # the beginning of a split's name
    ("event_log.py", "model"),  # a kind of event
    ("pipeline/definition.py", "model"),  # DVC's type of an artifact
    ("pipeline/inventory.py", "model"),  # DVC's type of an artifact
    ("pipeline/inventory.py", "models"),  # a kind of what a repository has
    ("pipeline/identity.py", "data/images"),  # version 1 of the key
    ("pipeline/identity.py", "dataset"),
    ("pipeline/identity.py", "src/"),
    ("pipeline/identity.py", "stages/"),
    ("provenance/locations.py", "download"),  # `mlflow artifacts download`
    ("settings.py", "seed"),  # a default of params.repeats
    ("store/datasets.py", "train"),  # the beginning of a split's name
    ("store/runs.py", "dataset"),  # of event logs before December 2026
    ("store/upload.py", "model"),  # a kind of event
    ("store/upload.py", "models"),  # a key of event logs
    ("system/terminal.py", "fold"),  # of rich
    ("tracking/results.py", "model"),  # a kind of event, DVC's type of an artifact
    ("tracking/header.py", "model"),  # DVC's type of an artifact
    ("tracking/header.py", "models"),  # a key of event logs
}


def texts(source: str) -> Iterator[str]:
    """Yield the constant texts of a module, without its docstrings."""
    tree = ast.parse(source)
    owners = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, owners) and node.body and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        match node:
            case ast.Constant(value=str(text)) if id(node) not in docstrings:
                yield text


def names_of_the_lab(source: str) -> set[str]:
    """Return the lab's names in a module: as a whole text, or as a path, tag or metric within."""
    names: set[str] = set()
    for text in texts(source):
        names |= {text} & (STAGES | PARAMS)
        names |= {name for name in STAGES if re.search(rf"retrace\.\w+\.{name}\b", text)}
        names |= {name for name in STAGES if re.search(rf"dvc repro (\S+ )*{name}\b", text)}
        names |= {name for name in METRICS if re.search(rf"\b{name}\b", text)}
        names |= {path for path in PATHS if path in text}
        names |= {folder for folder in FOLDERS if text.startswith(folder)}
        names |= {"mnist"} if "mnist" in text.lower() else set()
    return names


def modules() -> Iterator[tuple[str, Path]]:
    for path in sorted(ENGINE.rglob("*.py")):
        yield path.relative_to(ENGINE).as_posix(), path


def test_engine_names_nothing_of_the_lab() -> None:
    names = {
        (name, word)
        for name, path in modules()
        for word in names_of_the_lab(path.read_text(encoding="utf-8"))
    }
    assert sorted(names - ALLOWED) == []
    assert sorted(ALLOWED - names) == []  # delete what is no longer needed


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ('x = "evaluate"', "evaluate"),
        ('x = f"retrace.run.train{n}"', "train"),
        ('x = values["dataset"]', "dataset"),
        ('x = Path("reports/metrics.json")', "reports/metrics.json"),
        ('x = "test_accuracy is missing"', "test_accuracy"),
        ('x = path.startswith("src/lab")', "src/"),
    ],
)
def test_example_breaks_it(source: str, name: str) -> None:
    assert names_of_the_lab(source) == {name}


def test_docstrings_do_not_count() -> None:
    assert names_of_the_lab('"""evaluate"""\ndef f():\n    "train"\n') == set()
