"""dvc.yaml against the code: each rule holds here, and each can fail."""

import shutil
import subprocess
from pathlib import Path
from typing import Any

import contract
import pytest
import yaml
from pydantic import create_model
from repository import BIN, ROOT

from lab import params
from lab.data.datasets import DATASETS
from lab.models.networks import MODELS
from lab.report.figures import FIGURES
from lab.training.augmentations import AUGMENTATIONS
from lab.training.losses import LOSSES
from lab.training.optimizers import OPTIMIZERS
from lab.training.schedules import SCHEDULES
from retrace.pipeline import imports, params_file

STAGES: dict[str, dict[str, Any]] = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
GRAPH = imports.direct_imports(["lab"])
FOLDERS = {
    "datasets": (DATASETS, "data/datasets"),
    "models": (MODELS, "models/networks"),
    "figures": (FIGURES, "report/figures"),
}
FUNCTIONS = {
    "datasets": {name: dataset.read for name, dataset in DATASETS.items()},
    "models": MODELS,
    "figures": FIGURES,
    "losses": LOSSES,
    "optimizers": OPTIMIZERS,
    "schedules": SCHEDULES,
    "augmentations": AUGMENTATIONS,
}
NOT_ENTRIES = ("__init__.py", "style.py")


@pytest.fixture
def at_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def stale(stage: str, graph: imports.Imports = GRAPH, deps: list[str] | None = None) -> list[str]:
    """The stale deps of a stage in ROOT, as words: verb and entry."""
    script, declared = imports.scripts()[stage]
    declared = declared if deps is None else deps
    needed = imports.code_deps(script, declared, graph)
    entries = imports.stale_deps(stage, declared, needed)
    return [f"{'lack' if each.is_missing else 'have'} {each.entry}" for each in entries]


def with_module(name: str, importer: str, *imported: str) -> dict[str, set[str]]:
    """The imports with another module that `importer` imports."""
    return {**GRAPH, importer: {*GRAPH[importer], name}, name: set(imported)}


def test_stages_have_scripts_and_params() -> None:
    assert list(STAGES) == list(params.STAGES)
    assert {path.stem for path in (ROOT / "stages").glob("*.py")} == set(STAGES)
    assert {name: script for name, (script, _) in imports.scripts(ROOT).items()} == {
        name: f"stages/{name}.py" for name in STAGES
    }


@pytest.mark.usefixtures("at_root")
def test_deps_are_the_imports() -> None:
    assert imports.check() == []


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
    assert "lab.training.losses" in imports.imported_by(source, GRAPH)
    assert "numpy" not in imports.imported_by(source, GRAPH)


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
UPDATED = """\
# The stages.
stages:
  fit:
    cmd: python fit.py
    deps:
      # code and data
      - fit.py
      - src/app/layers.py
      - src/app/networks/${model}.py
      - data/a.csv
    params: [lr]  # by hand
  plot:
    cmd: Rscript plot.R
    deps:
      - plot.R  # by hand too
  report:
    deps:
    - report.py
    - src/app/layers.py
    - data/b.csv
    cmd: python report.py --all
"""


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
    assert imports.packages() == ["app"]
    assert [(each.stage, each.entry, each.is_missing) for each in imports.check()] == [
        ("fit", "src/app/layers.py", True),
        ("fit", "src/app/old.py", False),
        ("report", "report.py", True),
        ("report", "src/app/layers.py", True),
    ]
    imports.main()
    assert (project / "dvc.yaml").read_text() == UPDATED
    assert imports.check() == []


@pytest.mark.usefixtures("at_root")
def test_update_keeps_what_is_right() -> None:
    text = (ROOT / "dvc.yaml").read_text()
    assert imports.updated(text, GRAPH) == text


def stale_params(stage: str, declared: list[str]) -> set[str]:
    return set(declared) ^ set(params.keys_of(params.STAGES[stage]))


@pytest.mark.parametrize("stage", STAGES)
def test_params_are_the_keys_of_the_stage(stage: str) -> None:
    assert stale_params(stage, STAGES[stage]["params"]) == set()


def test_missing_and_unused_params_are_stale() -> None:
    declared = [key for key in STAGES["train"]["params"] if key != "models.${model}"]
    assert stale_params("train", [*declared, "dataset"]) == {"models.${model}", "dataset"}


def sources_of(stage: str) -> list[str]:
    """The text of a stage's script and of all that it imports, but for the schema itself."""
    script = (ROOT / "stages" / f"{stage}.py").read_text()
    modules = imports.reachable(imports.imported_by(script, GRAPH), GRAPH) - {"lab.params"}
    files = [(ROOT / "src" / Path(*module.split("."))).with_suffix(".py") for module in modules]
    return [script, *(file.read_text() for file in files if file.exists())]


@pytest.mark.parametrize("stage", STAGES)
def test_stage_reads_its_params(stage: str) -> None:
    assert contract.unread_params(params.STAGES[stage], sources_of(stage)) == []


def test_unread_param_breaks_the_contract() -> None:
    wider = create_model("Wider", __base__=params.Train, warmth=(int, ...))
    assert contract.unread_params(wider, sources_of("train")) == ["warmth"]


@pytest.mark.parametrize("table", FOLDERS)
def test_entry_has_one_name(table: str, values: params_file.Values) -> None:
    functions, folder = FOLDERS[table]
    files = (ROOT / "src" / "lab" / folder).glob("*.py")
    names = [path.stem for path in files if path.name not in NOT_ENTRIES]
    assert contract.misnamed_entries(functions, names, values[table]) == []


def test_misnamed_entry_breaks_the_contract() -> None:
    assert contract.misnamed_entries(["cnn"], ["convnet"], ["cnn"]) == ["cnn", "convnet"]


@pytest.mark.parametrize("table", FUNCTIONS)
def test_functions_have_settings_and_no_default(table: str, values: params_file.Values) -> None:
    assert set(values[table]) == set(FUNCTIONS[table])
    assert contract.settings_with_defaults(FUNCTIONS[table]) == []


def test_setting_with_a_default_breaks_the_contract() -> None:
    def build(*, width: int = 3) -> int:
        return width

    assert contract.settings_with_defaults({"net": build}) == ["net"]


def test_params_have_no_default() -> None:
    assert contract.defaults([params.Experiment, *params.STAGES.values()]) == []
    lax = create_model("Lax", __base__=params.Strict, lr=(float, 0.1))
    assert contract.defaults([lax]) == ["Lax.lr"]


def test_choices_in_comments_are_the_tables() -> None:
    lines = (ROOT / "params.yaml").read_text().splitlines()
    for choice, table in params.TABLES.items():
        (line,) = [line for line in lines if line.startswith(f"{choice}:")]
        assert line.split("# ")[1].split(", ") == list(FUNCTIONS[table])


def test_commands_have_no_params_and_run_code_from_here() -> None:
    assert contract.commands_with_params(STAGES) == []
    assert contract.commands_not_from_here(STAGES) == []
    bad = {"train": {"cmd": "python -m retrace.train ${model}"}}
    assert contract.commands_with_params(bad) == ["train"]
    assert contract.commands_not_from_here(bad) == ["train"]


def test_stages_before_evaluate_do_not_read_the_test_split() -> None:
    test = "data/processed/test.safetensors"
    readers = [name for name, stage in STAGES.items() if test in stage["deps"]]
    assert readers == ["evaluate", "visualize"]


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of the code, to be broken."""
    shutil.copytree(ROOT / "src", tmp_path / "src")
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def output(folder: Path, *command: str) -> str:
    env = {"PYTHONPATH": "src", "PATH": str(BIN), "NO_COLOR": "1"}
    ended = subprocess.run(
        command, cwd=folder, env=env, capture_output=True, text=True, check=False
    )
    return ended.stdout


def lint_imports(folder: Path) -> str:
    """Return what import-linter prints, in one line."""
    return " ".join(output(folder, "lint-imports", "--no-cache").split())


def append(file: Path, line: str) -> None:
    with file.open("a", encoding="utf-8") as text:
        text.write(f"\n{line}\n")


@pytest.mark.parametrize(
    ("importer", "line", "imported"),
    [
        ("retrace.settings", "from retrace.store import runs", "retrace.store.runs"),
        ("lab.paths", "from lab.training import loop", "lab.training.loop"),
        ("retrace.checkpoint", "import torch", "torch"),
        ("retrace.system.files", "from lab import shapes", "lab.shapes"),
    ],
)
def test_contract_breaks(copy: Path, importer: str, line: str, imported: str) -> None:
    append(copy / "src" / Path(*importer.split(".")).with_suffix(".py"), line)
    assert f"{importer} -> {imported}" in lint_imports(copy)


@pytest.mark.parametrize("package", ["lab", "retrace"])
def test_module_without_a_layer_breaks_a_contract(copy: Path, package: str) -> None:
    (copy / "src" / package / "helpers.py").touch()
    assert f"{package}.helpers" in lint_imports(copy)


@pytest.mark.parametrize(
    ("file", "line", "rule"),
    [
        ("lab/training/loop.py", "import mlflow", "TID251"),
        ("lab/training/loop.py", "from matplotlib.figure import Figure", "TID251"),
        ("lab/data/split.py", "import yaml", "TID251"),
        ("lab/params.py", "import ruamel.yaml", "TID251"),
        ("retrace/compare/page.py", "import mlflow", "TID251"),
        ("retrace/event_log.py", "import pickle\npickle.loads(data)", "S301"),
        ("lab/models/classifier.py", "weights = torch.load(path)", "TID251"),
    ],
)
def test_banned_import_is_an_error(copy: Path, file: str, line: str, rule: str) -> None:
    check = ("ruff", "check", "--no-cache", "--output-format=concise", f"src/{file}")
    assert rule not in output(copy, *check)
    append(copy / "src" / file, line)
    assert rule in output(copy, *check)
