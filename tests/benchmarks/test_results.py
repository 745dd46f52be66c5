"""The table of results: built from MLflow's runs; runs only what MLflow lacks."""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import results
from dvc.cli import parse_args
from dvc.utils.hydra import apply_overrides
from mlflow import MlflowClient
from mlflow.entities import Metric, Param
from repository import ROOT
from results import Result

from lab import params, paths, recipes
from lab.params import Values
from retrace.errors import RetraceError
from retrace.pipeline import params_yaml

PAGE = f"# title\n\n{results.BEGIN}| old |\n{results.END}\n\n## more\n"


@pytest.fixture
def client(folder: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch) -> MlflowClient:
    """A client of a folder's store; the folder has the recipes and their page."""
    shutil.copytree(ROOT / recipes.FOLDER, recipes.FOLDER)
    shutil.copy(empty_store, folder)
    monkeypatch.setattr(results, "uncommitted", str)
    for path in (results.RECORD, results.PAGE):
        (folder / path).parent.mkdir()
    (folder / results.PAGE).write_text(PAGE)
    return results.store()


def log(
    client: MlflowClient,
    values: Values,
    accuracy: float | None,
    status: str = "FINISHED",
    **tags: str,
) -> str:
    """Log a parent run as tracking does; return its id."""
    experiment = client.get_experiment_by_name(values["dataset"])
    experiment_id = (
        experiment.experiment_id if experiment else client.create_experiment(values["dataset"])
    )
    run = client.create_run(
        experiment_id, tags={"mlflow.source.git.commit": "c0ffee"} | tags
    ).info.run_id
    scores = {} if accuracy is None else {"test_accuracy": accuracy, "test_recall": accuracy / 2}
    client.log_batch(
        run,
        [Metric(name, score, 0, 0) for name, score in scores.items()],
        [Param(name, str(value)) for name, value in params.chosen(values).items()],
    )
    client.set_terminated(run, status)
    return run


def log_training(client: MlflowClient, parent: str, seconds: float) -> None:
    tags = {
        "mlflow.parentRunId": parent,
        "retrace.stage": "train",
        "retrace.device": "abacus, 2 rods",
    }
    run = client.create_run(client.get_run(parent).info.experiment_id, tags=tags).info.run_id
    client.log_metric(run, "train_s", seconds)


def seeded(recipe: str, seed: int) -> Values:
    return next(values for values in results.experiments_of(recipe) if values["seed"] == seed)


def test_newest_run_of_same_params_is_found(
    client: MlflowClient,
) -> None:
    values = seeded("mnist_tutorial", 1)
    assert results.found(client, values) is None
    log(client, values, 0.5)
    newest = log(client, values, 0.6)
    run = results.found(client, values)
    assert run
    assert run.info.run_id == newest


def test_unchosen_settings_do_not_count(client: MlflowClient) -> None:
    values = seeded("mnist_tutorial", 1)
    log(client, values, 0.5)
    assert results.found(
        client,
        values | {"models": values["models"] | {"mlp": {"hidden": [1], "activation": "none"}}},
    )


@pytest.mark.parametrize(
    ("change", "accuracy", "status", "tags"),
    [
        ({"lr": 0.02}, 0.5, "FINISHED", {}),
        ({"seed": 2}, 0.5, "FINISHED", {}),
        ({"lr": 1}, 0.5, "FINISHED", {}),
        ({}, None, "FINISHED", {}),
        ({}, 0.5, "FAILED", {}),
        ({}, 0.5, "RUNNING", {}),
        ({}, 0.5, "FINISHED", {"mlflow.parentRunId": "1"}),
    ],
    ids=str,
)
def test_other_and_unfinished_runs_ignored(
    client: MlflowClient, change: Values, accuracy: float | None, status: str, tags: dict[str, str]
) -> None:
    values = seeded("mnist_tutorial", 1) | {"lr": 1.0}
    log(client, values | change, accuracy, status, **tags)
    assert results.found(client, values) is None
    log(client, values, 0.5)
    assert results.found(client, values)


def test_result_has_newest_training_time(client: MlflowClient) -> None:
    values = seeded("mnist_tutorial", 1)
    run = log(client, values, 0.5)
    log_training(client, run, 10.0)
    log_training(client, run, 20.0)
    other = log(client, values | {"seed": 2}, 0.6)
    assert results.result_of(client, client.get_run(run)) == Result(
        1, 20, 0.5, 0.25, 20.0, "abacus, 2 rods", "c0ffee", run
    )
    assert results.result_of(client, client.get_run(other)).train_s is None


def test_table_has_row_for_each_recipe(client: MlflowClient) -> None:
    for recipe, accuracies in (
        ("cifar10_v3", (0.88,)),
        ("imbalanced_focal", (0.9, 0.8, 0.82)),
        ("mnist_cnn", (0.99,)),
    ):
        for seed, accuracy in enumerate(accuracies):
            run = log(client, seeded(recipe, seed), accuracy)
            log_training(client, run, 10.0 + seed**2)
    assert results.table(results.measured(client)) == (
        "| recipe | n | epochs | test accuracy: mean (min..max) "
        "| balanced | training, s | on | the tutorial |\n"
        "| --- | --- | --- | --- | --- | --- | --- | --- |\n"
        "| `cifar10_v3` | 1 | 150 | 88.00 % |  | 10.0 | abacus, 2 rods | about 88 % |\n"
        "| `imbalanced_focal` | 3 | 10 | 84.00 % (80.00..90.00) "
        "| 42.00 % | 11.0 | abacus, 2 rods |  |\n"
        "| `mnist_cnn` | 1 | 5 | 99.00 % |  | 10.0 | abacus, 2 rods |  |\n"
    )


class Runs:
    """A stub of DVC that records the seeds it runs, and logs them to MLflow if `logs`."""

    def __init__(self, client: MlflowClient, code: int = 0, *, logs: bool = True) -> None:
        self.client = client
        self.code = code
        self.logs = logs
        self.seeds: list[int] = []

    def __call__(self, _recipe: str, values: Values) -> int:
        self.seeds.append(values["seed"])
        if self.logs:
            log(self.client, values, 0.5)
        return self.code


def test_known_results_are_not_rerun(client: MlflowClient, monkeypatch: pytest.MonkeyPatch) -> None:
    log(client, seeded("mnist_cnn", 1), 0.5)
    monkeypatch.setattr(results, "run", runs := Runs(client))
    assert results.run_missing(client, ["mnist_cnn"], again=False) == []
    assert runs.seeds == [0, 2]
    assert results.run_missing(client, ["mnist_cnn"], again=False) == []
    assert runs.seeds == [0, 2]
    assert results.run_missing(client, ["mnist_cnn"], again=True) == []
    assert runs.seeds == [0, 2, 0, 1, 2]


@pytest.mark.parametrize(
    ("code", "logs", "message"),
    [(255, False, "DVC exited with 255"), (0, False, "MLflow does not have the run")],
)
def test_failures_do_not_stop_the_others(
    client: MlflowClient, monkeypatch: pytest.MonkeyPatch, code: int, logs: bool, message: str
) -> None:
    monkeypatch.setattr(results, "run", Runs(client, code, logs=logs))
    failed = results.run_missing(client, ["mnist_cnn", "cifar10_v3"], again=False)
    assert failed == [
        f"{n}: {message}"
        for n in (*(f"mnist_cnn, seed {s}" for s in range(3)), "cifar10_v3, seed 0")
    ]


@pytest.mark.usefixtures("client")
def test_run_sets_recipe_values_and_seed(folder: Path, monkeypatch: Any) -> None:
    program = folder / "bin" / "dvc"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\nprintf '%s\\n' \"$@\" >> {folder}/typed\n[ $2 = remove ]\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")
    paths.PARAMS.write_text(paths.PARAMS.read_text().replace("\nthreads: 2", "\nthreads: 1"))
    values = seeded("cifar10_v3_fast", 0) | {"seed": 7, "threads": 2}
    assert results.run("cifar10_v3_fast", values) == 1
    words = (folder / "typed").read_text().split("\n")
    typed = parse_args(words[words.index("run") - 1 : -1])
    assert (typed.name, typed.tmp_dir, typed.force) == ("result-cifar10_v3_fast-7", True, True)
    apply_overrides(paths.PARAMS, typed.set_param)
    assert params_yaml.read() == values


def test_write_copies_figure_keeps_results(
    client: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(results, "run", Runs(client))
    run = log(client, seeded("circles_relu", 0), 0.5)
    Path("decision_boundary.png").write_bytes(b"figure")
    client.log_artifact(run, "decision_boundary.png", "reports/figures")
    measured = results.measured(client)
    results.write(client, measured)
    assert Path("docs/circles_relu.png").read_bytes() == b"figure"
    results.write(client, measured | {"circles_relu": []})
    assert "circles_relu" in json.loads(results.RECORD.read_text())["results"]
    assert "| `circles_relu` | 1 |" in results.PAGE.read_text()


def test_headers_and_page_match_record() -> None:
    record = json.loads((ROOT / results.RECORD).read_text())["results"]
    measured = {
        recipe: [Result(**each) for each in results_] for recipe, results_ in record.items()
    }
    for recipe, each in measured.items():
        text = (ROOT / recipes.FOLDER / f"{recipe}.yaml").read_text()
        assert results.headed(text, each) == text
    page = (ROOT / results.PAGE).read_text()
    assert results.with_table(page, results.table(measured)) == page
    assert set(measured) >= set(recipes_of_the_repository()) - {"cifar10_v3", *results.NEEDS}


def recipes_of_the_repository() -> list[str]:
    return [file.stem for file in (ROOT / recipes.FOLDER).glob("*.yaml")]


def test_uncommitted_code_gives_no_results(
    client: MlflowClient, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(results, "uncommitted", lambda: "src/lab/training/loop.py")
    with pytest.raises(RetraceError, match="commit first, .*loop.py"):
        called(monkeypatch, "--only", "mnist_cnn")


def test_with_table_replaces_only_the_table() -> None:
    once = results.with_table(PAGE, "| new |\n")
    assert once == PAGE.replace("old", "new")
    assert results.with_table(once, "| new |\n") == once


@pytest.mark.parametrize(
    "page", ["", PAGE.replace(results.BEGIN, ""), PAGE.replace(results.END, ""), PAGE * 2]
)
def test_page_without_marks_is_refused(page: str) -> None:
    with pytest.raises(
        RetraceError,
        match="docs/recipes.md: has not one <!-- results --> before one <!-- /results -->",
    ):
        results.with_table(page, "")


def called(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["results.py", *arguments])
    results.main()


def test_results_are_written_only_if_asked(
    client: MlflowClient, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(results, "run", Runs(client))
    with pytest.raises(SystemExit) as ended:
        called(monkeypatch, "--only", "mnist_cnn")
    assert ended.value.code == 0
    assert "| `mnist_cnn` | 3 | 5 | 50.00 % (50.00..50.00) |" in capsys.readouterr().out
    assert results.PAGE.read_text() == PAGE
    assert not results.RECORD.exists()
    with pytest.raises(SystemExit):
        called(monkeypatch, "--only", "mnist_cnn", "--write")
    assert "| `mnist_cnn` | 3 | 5 | 50.00 % (50.00..50.00) |" in results.PAGE.read_text()
    numbers = json.loads(results.RECORD.read_text())["results"]["mnist_cnn"]
    assert [(each["seed"], each["test_accuracy"], each["commit"]) for each in numbers] == [
        (seed, 0.5, "c0ffee") for seed in range(3)
    ]
    assert client.get_run(numbers[0]["run_id"]).data.params["seed"] == "0"


def test_failure_sets_exit_code(
    client: MlflowClient, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(results, "run", Runs(client, 255, logs=False))
    with pytest.raises(SystemExit) as ended:
        called(monkeypatch, "--only", "cifar10_v3")
    assert ended.value.code == 1
    assert capsys.readouterr().err == "cifar10_v3, seed 0: DVC exited with 255\n"


def test_list_runs_nothing(
    client: MlflowClient, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    log(client, seeded("mnist_cnn", 1), 0.5)
    log(client, seeded("cifar10_v3", 0), 0.5)
    called(monkeypatch, "--list")
    printed = capsys.readouterr().out.splitlines()
    left_out = [line.split(":")[0] for line in printed if "left out, it needs" in line]
    assert left_out == list(results.NEEDS)
    assert "mnist_cnn: seeds to run: 0, 2" in printed
    assert "cifar10_v3: MLflow has it all" in printed
    assert {line.split(":")[0] for line in printed} == set(recipes.titles())


@pytest.mark.usefixtures("client")
def test_bad_recipe_or_page_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        called(monkeypatch, "--only", "mnist_cmm")
    assert ended.value.code == 2
    assert "invalid choice: 'mnist_cmm'" in capsys.readouterr().err
    results.PAGE.write_text("")
    with pytest.raises(RetraceError, match="markers|has not one"):
        called(monkeypatch, "--write")


def test_names_in_tables_are_recipes() -> None:
    names = {file.stem for file in (ROOT / recipes.FOLDER).glob("*.yaml")}
    assert {*results.SEEDS, *results.NEEDS, *results.TUTORIAL} <= names
