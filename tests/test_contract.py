"""The rules of contract.py: each holds here, and an example breaks each."""

from pathlib import Path
from typing import Any

import contract
import pytest
import yaml
from pydantic import create_model
from repository import ROOT

from lab import params
from lab.data.datasets import DATASETS
from lab.doctor import code_deps
from lab.models.networks import MODELS
from lab.report.figures import FIGURES
from lab.training.augmentations import AUGMENTATIONS
from lab.training.losses import LOSSES
from lab.training.optimizers import OPTIMIZERS
from lab.training.schedules import SCHEDULES
from retrace.pipeline import params_yaml

STAGES: dict[str, dict[str, Any]] = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
GRAPH = code_deps.direct_imports(["lab"])
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
NOT_ENTRIES = ("__init__.py", "style.py", "lr_range.py")  # the last is of `retrace lr-find`


def sources_of(stage: str) -> list[str]:
    """The text of a stage's script and of all that it imports, but for the schema itself."""
    script = (ROOT / "stages" / f"{stage}.py").read_text()
    modules = code_deps.reachable(code_deps.imported_by(script, GRAPH), GRAPH) - {"lab.params"}
    files = [(ROOT / "src" / Path(*module.split("."))).with_suffix(".py") for module in modules]
    return [script, *(file.read_text() for file in files if file.exists())]


@pytest.mark.parametrize("stage", STAGES)
def test_stage_reads_its_params(stage: str) -> None:
    assert contract.unread_params(params.STAGES[stage], sources_of(stage)) == []


def test_unread_param_breaks_it() -> None:
    wider = create_model("Wider", __base__=params.Train, warmth=(int, ...))
    assert contract.unread_params(wider, sources_of("train")) == ["warmth"]


@pytest.mark.parametrize("table", FOLDERS)
def test_entry_has_one_name(table: str, values: params_yaml.Values) -> None:
    functions, folder = FOLDERS[table]
    files = (ROOT / "src" / "lab" / folder).glob("*.py")
    names = [path.stem for path in files if path.name not in NOT_ENTRIES]
    assert contract.misnamed_entries(functions, names, values[table]) == []


def test_misnamed_entry_breaks_it() -> None:
    assert contract.misnamed_entries(["cnn"], ["convnet"], ["cnn"]) == ["cnn", "convnet"]


@pytest.mark.parametrize("table", FUNCTIONS)
def test_functions_have_settings_and_no_default(table: str, values: params_yaml.Values) -> None:
    assert set(values[table]) == set(FUNCTIONS[table])
    assert contract.settings_with_defaults(FUNCTIONS[table]) == []


def test_default_of_a_setting_breaks_it() -> None:
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


def test_shapes_are_checked_where_named(pytestconfig: pytest.Config) -> None:
    checked = tuple(str(pytestconfig.getoption("jaxtyping_packages")).split(","))
    named = [module for module, imported in GRAPH.items() if "lab.shapes" in imported]
    assert named
    assert [module for module in named if not module.startswith(checked)] == []


def test_commands_run_code_from_here() -> None:
    assert contract.commands_with_params(STAGES) == []
    assert contract.commands_not_from_here(STAGES) == []
    bad = {"train": {"cmd": "python -m retrace.train ${model}"}}
    assert contract.commands_with_params(bad) == ["train"]
    assert contract.commands_not_from_here(bad) == ["train"]


def test_test_split_is_read_by_evaluate_first() -> None:
    test = "data/processed/test.safetensors"
    readers = [name for name, stage in STAGES.items() if test in stage["deps"]]
    assert readers == ["evaluate", "visualize"]
