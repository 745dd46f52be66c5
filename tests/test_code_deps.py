"""Deps and params in dvc.yaml against the code: equal here, and each difference is listed."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from repository import ROOT

from lab import params
from lab.doctor import code_deps
from retrace.errors import DataError

STAGES: dict[str, dict[str, Any]] = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
GRAPH = code_deps.direct_imports(["lab"])


@pytest.fixture
def at_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def stale(stage: str, graph: code_deps.Imports = GRAPH, deps: list[str] | None = None) -> list[str]:
    """The stale deps of a stage in ROOT, as words: verb and entry."""
    script, declared = code_deps.scripts()[stage]
    declared = declared if deps is None else deps
    needed = code_deps.code_deps(script, declared, graph)
    entries = code_deps.stale_deps(stage, declared, needed)
    return [f"{'lack' if each.is_missing else 'have'} {each.entry}" for each in entries]


def with_module(name: str, importer: str, *imported: str) -> dict[str, set[str]]:
    """The imports with another module that `importer` imports."""
    return {**GRAPH, importer: {*GRAPH[importer], name}, name: set(imported)}


def test_stages_have_scripts_and_params() -> None:
    assert list(STAGES) == list(params.STAGES)
    assert {path.stem for path in (ROOT / "stages").glob("*.py")} == set(STAGES)
    assert {name: script for name, (script, _) in code_deps.scripts(ROOT).items()} == {
        name: f"stages/{name}.py" for name in STAGES
    }


@pytest.mark.usefixtures("at_root")
def test_deps_are_the_imports() -> None:
    assert code_deps.check() == []


def test_engine_is_no_dep() -> None:
    deps = [dep for stage in STAGES.values() for dep in stage["deps"]]
    assert [dep for dep in deps if dep.startswith("src/retrace")] == []


@pytest.mark.usefixtures("at_root")
def test_missing_dep_is_stale() -> None:
    deps = [dep for dep in STAGES["preprocess"]["deps"] if dep != "src/lab/data/split.py"]
    assert stale("preprocess", deps=deps) == ["lack src/lab/data/split.py"]


@pytest.mark.usefixtures("at_root")
def test_unused_dep_is_stale() -> None:
    deps = [*STAGES["visualize"]["deps"], "src/lab/training/loop.py"]
    assert stale("visualize", deps=deps) == ["have src/lab/training/loop.py"]


@pytest.mark.usefixtures("at_root")
def test_unused_folder_and_template_are_stale() -> None:
    deps = [*STAGES["visualize"]["deps"], "src/lab/serving", "src/lab/models/networks/${model}.py"]
    assert stale("visualize", deps=deps) == [
        "have src/lab/models/networks/${model}.py",
        "have src/lab/serving",
    ]


@pytest.mark.usefixtures("at_root")
def test_import_of_an_import_is_a_dep() -> None:
    graph = with_module("lab.later", "lab.data.batches")
    assert stale("train", graph) == ["lack src/lab/later.py"]


@pytest.mark.usefixtures("at_root")
def test_import_of_a_network_is_a_dep() -> None:
    graph = with_module("lab.blocks", "lab.models.networks.cnn")
    assert stale("train", graph) == ["lack src/lab/blocks.py"]
    assert stale("visualize", graph) == []


@pytest.mark.usefixtures("at_root")
@pytest.mark.parametrize(
    ("table", "imported"),
    [
        ("lab.models.networks", "lab.models.layers"),
        ("lab.data.datasets", "lab.data.idx"),
        ("lab.report.figures", "lab.report.figures.style"),
    ],
)
def test_new_entry_of_a_table_changes_no_dep(table: str, imported: str) -> None:
    graph = with_module(f"{table}.mine", table, imported)
    assert [entry for stage in STAGES for entry in stale(stage, graph)] == []


@pytest.mark.parametrize(
    "source",
    [
        "from lab.training import losses",
        "import lab.training.losses",
        "def late():\n    from lab.training import losses",
        "if a:\n    import numpy, lab.training.losses as other",
    ],
)
def test_script_imports_are_read(source: str) -> None:
    assert "lab.training.losses" in code_deps.imported_by(source, GRAPH)
    assert "numpy" not in code_deps.imported_by(source, GRAPH)


DVC_YAML = """\
# The stages.
stages:
  fit:
    cmd: python fit.py
    deps:
      # code and data
      - fit.py
      - src/app/old.py
      - src/app/networks/${model}.py
      - data/a.csv
    params: [lr]  # by hand
  plot:
    cmd: Rscript plot.R
    deps:
      - plot.R  # by hand too
  report:
    deps:
    - data/b.csv
    cmd: python report.py --all
"""
UPDATED = DVC_YAML.replace("src/app/old.py", "src/app/layers.py").replace(
    "    - data/b.csv\n", "    - report.py\n    - src/app/layers.py\n    - data/b.csv\n"
)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Another repository with three stages, two of them in Python."""
    files = {
        "dvc.yaml": DVC_YAML,
        "fit.py": "from app.networks import cnn",
        "report.py": "import app.layers",
        "src/app/__init__.py": '"""The package."""',
        "src/app/layers.py": "",
        "src/app/old.py": "",
        "src/app/networks/__init__.py": "",
        "src/app/networks/cnn.py": "from app import layers",
        "src/retrace/__init__.py": "",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path / "src")
    return tmp_path


def test_other_repository_is_checked_and_updated(project: Path) -> None:
    assert code_deps.packages() == ["app"]
    assert [(each.stage, each.entry, each.is_missing) for each in code_deps.check()] == [
        ("fit", "src/app/layers.py", True),
        ("fit", "src/app/old.py", False),
        ("report", "report.py", True),
        ("report", "src/app/layers.py", True),
    ]
    code_deps.main()
    assert (project / "dvc.yaml").read_text() == UPDATED
    assert code_deps.check() == []


@pytest.mark.usefixtures("at_root")
@pytest.mark.parametrize("text", ["[" * 20_000, "stages: [", "1", "{}"])
def test_invalid_yaml_is_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "dvc.yaml").write_text(text)
    with pytest.raises(DataError, match=r"^[^\n]*dvc.yaml: is not valid: "):
        code_deps.declared(tmp_path)


def test_update_keeps_what_is_right() -> None:
    text = (ROOT / "dvc.yaml").read_text()
    assert code_deps.updated(text, GRAPH) == text


def stale_params(stage: str, declared: list[str]) -> set[str]:
    return set(declared) ^ set(params.keys_of(params.STAGES[stage]))


@pytest.mark.parametrize("stage", STAGES)
def test_params_are_the_keys_of_the_stage(stage: str) -> None:
    assert stale_params(stage, STAGES[stage]["params"]) == set()


def test_missing_and_unused_params_are_stale() -> None:
    declared = [key for key in STAGES["train"]["params"] if key != "models.${model}"]
    assert stale_params("train", [*declared, "dataset"]) == {"models.${model}", "dataset"}
