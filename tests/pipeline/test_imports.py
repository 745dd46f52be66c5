"""The graph against the code: each rule holds here, and each can fail."""

import shutil
import subprocess
from collections.abc import Iterable
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
from retrace.errors import DataError
from retrace.pipeline import graph, imports, params_file

STAGES: dict[str, dict[str, Any]] = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
GRAPH = imports.imports_of()
BY_FOLDER = {"datasets": DATASETS, "models": MODELS, "figures": FIGURES}
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


def script(stage: str) -> str:
    return (ROOT / "stages" / f"{stage}.py").read_text()


def stale_deps(stage: str, declared: Iterable[str], source: str, graph: imports.Graph) -> list[str]:
    return list(map(str, imports.stale_deps(stage, declared, source, graph)))


def stale_params(stage: str, declared: Iterable[str]) -> list[str]:
    return list(map(str, imports.stale_params(stage, declared)))


def files_in(table: str) -> list[str]:
    return [
        path.name
        for path in (ROOT / "src" / "retrace" / table).glob("*.py")
        if path.name not in NOT_ENTRIES
    ]


def test_there_are_five_stages_and_each_has_a_script_and_parameters() -> None:
    assert (
        list(STAGES)
        == list(params.STAGES)
        == ["download", "preprocess", "train", "evaluate", "visualize"]
    )
    assert {path.stem for path in (ROOT / "stages").glob("*.py")} == set(STAGES)


@pytest.mark.parametrize("stage", STAGES)
def test_deps_are_what_a_stage_imports(stage: str) -> None:
    assert stale_deps(stage, STAGES[stage]["deps"], script(stage), GRAPH) == []


def test_a_missing_dep_is_found() -> None:
    deps = [dep for dep in STAGES["train"]["deps"] if dep != "src/lab/training/losses.py"]
    assert stale_deps("train", deps, script("train"), GRAPH) == [
        "train: deps lacks src/lab/training/losses.py"
    ]


def test_a_dep_that_only_an_import_of_an_import_needs_is_found() -> None:
    graph = {
        **GRAPH,
        "lab.data.batches": [*GRAPH["lab.data.batches"], "retrace.later"],
        "retrace.later": [],
    }
    found = stale_deps("train", STAGES["train"]["deps"], script("train"), graph)
    assert found == ["train: deps lacks src/retrace/later.py"]


def test_what_an_entry_of_a_table_imports_is_found() -> None:
    graph = {**GRAPH, "lab.models.networks.cnn": ["retrace.blocks"], "retrace.blocks": []}
    found = stale_deps("train", STAGES["train"]["deps"], script("train"), graph)
    assert found == ["train: deps lacks src/retrace/blocks.py"]


def test_a_dep_that_nothing_imports_is_found() -> None:
    deps = [*STAGES["visualize"]["deps"], "src/lab/training/loop.py"]
    found = stale_deps("visualize", deps, script("visualize"), GRAPH)
    assert found == ["visualize: deps has src/lab/training/loop.py, which it does not import"]


def test_a_late_import_counts() -> None:
    source = script("visualize") + "\n\ndef late():\n    from retrace import training\n"
    found = stale_deps("visualize", STAGES["visualize"]["deps"], source, GRAPH)
    assert "visualize: deps lacks src/lab/training/loop.py" in found


@pytest.mark.parametrize("stage", STAGES)
def test_params_are_what_a_stage_is_given(stage: str) -> None:
    assert stale_params(stage, STAGES[stage]["params"]) == []


def test_a_missing_and_an_idle_param_are_found() -> None:
    declared = [key for key in STAGES["train"]["params"] if key != "models.${model}"] + ["dataset"]
    assert stale_params("train", declared) == [
        "train: params lacks models.${model}",
        "train: params has dataset, which it does not read",
    ]


def sources_of(stage: str) -> list[str]:
    modules = imports.reached(imports.imports_of_script(script(stage), GRAPH), GRAPH) - {
        "lab.params"
    }
    files = [ROOT / "src" / Path(*module.split(".")) for module in modules]
    return [script(stage)] + [
        file.with_suffix(".py").read_text() for file in files if not file.is_dir()
    ]


@pytest.mark.parametrize("stage", STAGES)
def test_every_parameter_of_a_stage_is_read_by_it(stage: str) -> None:
    assert contract.unread_params(params.STAGES[stage], sources_of(stage)) == []


def test_a_parameter_that_nothing_reads_is_found() -> None:
    wider = create_model("Wider", __base__=params.Train, warmth=(int, ...))
    assert contract.unread_params(wider, sources_of("train")) == ["Wider: nothing reads warmth"]


@pytest.mark.parametrize("table", BY_FOLDER)
def test_an_entry_is_its_file_its_key_and_its_settings(
    table: str, values: params_file.Values
) -> None:
    assert contract.misnamed_entries(table, BY_FOLDER[table], files_in(table), values[table]) == []


def test_a_misnamed_entry_is_found() -> None:
    found = contract.misnamed_entries("models", {"cnn"}, {"convnet.py"}, {"cnn"})
    assert [line.split()[1] for line in found] == ["cnn", "convnet"]


@pytest.mark.parametrize("table", FUNCTIONS)
def test_every_function_of_a_table_has_settings_and_no_default(
    table: str, values: params_file.Values
) -> None:
    assert set(values[table]) == set(FUNCTIONS[table])
    assert contract.settings_with_defaults(FUNCTIONS[table]) == []


def test_a_setting_with_a_default_is_found() -> None:
    def build(*, width: int = 3) -> int:
        return width

    assert contract.settings_with_defaults({"net": build}) == ["net has a default"]


def test_no_typed_parameter_has_a_default_and_one_that_has_is_found() -> None:
    assert contract.defaults([params.Experiment, *params.STAGES.values()]) == []
    assert contract.defaults([create_model("Lax", __base__=params.Strict, lr=(float, 0.1))]) == [
        "Lax.lr has a default"
    ]


def test_choices_in_comments_are_the_tables() -> None:
    lines = (ROOT / "params.yaml").read_text().splitlines()
    for choice, table in params.TABLES.items():
        (line,) = [line for line in lines if line.startswith(f"{choice}:")]
        assert line.split("# ")[1].split(", ") == list(FUNCTIONS[table])


def test_no_command_is_built_from_parameters_or_runs_another_tree_s_code() -> None:
    assert contract.shell_injections(STAGES) == []
    assert contract.commands_not_from_here(STAGES) == []
    bad = {"train": {"cmd": "python -m retrace.train ${model}"}}
    assert contract.shell_injections(bad) == ["train: ${} in cmd"]
    assert contract.commands_not_from_here(bad) == ["train: python -m retrace.train ${model}"]


def test_no_stage_before_evaluate_reads_the_test_part() -> None:
    readers = [
        name for name, stage in STAGES.items() if "data/processed/test.safetensors" in stage["deps"]
    ]
    assert readers == ["evaluate", "visualize"]


def copied(folder: Path) -> Path:
    shutil.copytree(ROOT / "src", folder / "src")
    shutil.copy(ROOT / "pyproject.toml", folder)
    return folder


def linted(folder: Path, *command: str) -> str:
    env = {"PYTHONPATH": "src", "PATH": str(BIN), "NO_COLOR": "1"}
    return subprocess.run(
        command, cwd=folder, env=env, capture_output=True, text=True, check=False
    ).stdout


def test_an_import_against_the_layers_is_found(tmp_path: Path) -> None:
    folder = copied(tmp_path)
    with (folder / "src/lab/paths.py").open("a") as file:
        file.write("\nfrom retrace import training\n")
    assert "lab.paths is not allowed to import lab.training.loop" in linted(
        folder, "lint-imports", "--no-cache"
    )


def test_a_module_that_no_layer_names_is_found(tmp_path: Path) -> None:
    folder = copied(tmp_path)
    (folder / "src/retrace/helpers.py").touch()
    assert "retrace.helpers" in linted(folder, "lint-imports", "--no-cache")


@pytest.mark.parametrize(
    ("file", "line", "rule"),
    [
        ("training.py", "import mlflow", "TID251"),
        ("training.py", "from matplotlib.figure import Figure", "TID251"),
        ("splits.py", "import yaml", "TID251"),
        ("journal.py", "import pickle\npickle.loads(data)", "S301"),
        ("classifier.py", "weights = torch.load(path)", "TID251"),
    ],
)
def test_a_forbidden_import_is_found(tmp_path: Path, file: str, line: str, rule: str) -> None:
    folder = copied(tmp_path)
    path = folder / "src" / "retrace" / file
    path.write_text(f"{path.read_text()}\n{line}\n")
    assert rule in linted(
        folder, "ruff", "check", "--output-format=concise", str(path.relative_to(folder))
    )


@pytest.mark.parametrize("level", ["[", "- ", "{a: "])
def test_yaml_of_many_levels_is_refused_and_does_not_end_the_process(
    tmp_path: Path, level: str
) -> None:
    text = level * 200_000
    for name, read in (("dvc.yaml", graph.declared), ("dvc.lock", graph.locked)):
        (tmp_path / name).write_text(text, encoding="utf-8")
        with pytest.raises(
            DataError, match=rf"{name}: not as DVC has it: more than 10,000 brackets"
        ):
            read(tmp_path)


def test_a_parameter_in_a_path_is_text_and_no_yaml(tmp_path: Path) -> None:
    (tmp_path / "dvc.yaml").write_text(
        "stages: {train: {deps: ['a/${model.name}.py'], outs: [{'b${n}': {cache: false}}]}}"
    )
    found = graph.stages({"model": {"name": "x'], outs: [y"}, "n": 2}, tmp_path)
    assert found == {"train": graph.Stage(deps=("a/x'], outs: [y.py",), outs=("b2",))}


def test_a_path_with_a_parameter_that_is_not_there_is_a_line(tmp_path: Path) -> None:
    (tmp_path / "dvc.yaml").write_text("stages: {train: {deps: ['${mode}.py']}}")
    with pytest.raises(
        DataError, match=r"dvc.yaml: not as DVC has it: 'mode'; `git diff .*` shows what changed"
    ):
        graph.stages({"model": "cnn"}, tmp_path)
