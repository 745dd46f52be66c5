"""`retrace sweep` in a repository that knows nothing of retrace: trials, resumption, refusals."""

import json
import signal
import subprocess
from pathlib import Path
from typing import Any, cast

import mlflow
import optuna
import pytest
from faults.servers import until
from optuna.distributions import FloatDistribution
from stranger import Project

from retrace import event_log
from retrace.cli import arguments
from retrace.cli import sweep as cli_sweep
from retrace.cli.arguments import Command
from retrace.errors import RetraceError

FIT = """
import json, sys, time, tomllib

lr, pause = (float(word) for word in sys.argv[1:])
scale = tomllib.load(open("train.toml", "rb"))["loss"]["scale"]
error = scale * (lr - 0.3) ** 2
with open("curve.csv", "w") as file:
    file.write("step,loss\\n")
    for step in range(1, 10):
        file.write(f"{step},{error + 1 / step}\\n")
        file.flush()
        time.sleep(pause)
json.dump({"loss": error, "accuracy": 1 - error, "test_loss": error}, open("scores.json", "w"))
"""
DVC_YAML = """
stages:
  fit:
    cmd: python fit.py ${lr} ${pause}
    deps: [fit.py]
    params: [kind, "kinds.${kind}", train.toml: [loss]]
    metrics: [scores.json]
    plots: [curve.csv: {x: step}]
  report:
    cmd: echo $(cat scores.json) > report.txt
    deps: [scores.json]
    params: [title]
    outs: [report.txt]
"""
PARAMS = """
lr: 0.9
pause: 0
kind: a
kinds: {a: {width: 1}, b: {depth: 2}}
title: text
split: 0.2
"""
FILES = {
    "fit.py": FIT,
    "dvc.yaml": DVC_YAML,
    "params.yaml": PARAMS,
    ".gitignore": "mlflow.db*\n",
    "train.toml": "[loss]\nscale = 2.0\n",
    "retrace.toml": "metrics = {primary = 'test_loss'}\nsweep = {fixed = ['kinds.b']}\n",
}
LOSS = ("--metric", "loss")
pytestmark = [pytest.mark.long, pytest.mark.xdist_group("sweep")]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Project:
    """Return a repository whose pipeline ran once."""
    folder = tmp_path_factory.mktemp("stranger")
    project = Project(folder, tmp_path_factory.mktemp("cache"), empty_store, {}, FILES)
    project.type("dvc repro --quiet")
    project.commit("reproduced")
    return project


def sweep(project: Project, *words: str) -> dict[str, Any]:
    """Run a sweep and return its document."""
    output = project.run("retrace", "sweep", *words, *LOSS, "--json")
    return json.loads(output[output.index("{\n") : output.rindex("}") + 1])


def test_sweep_finds_a_better_value(project: Project) -> None:
    document = sweep(project, "lr=0..1", "--trials", "6", "--name", "six")
    assert document["direction"] == "minimize"
    assert [trial["state"] for trial in document["trials"]] == ["complete"] * 6
    values = [trial["value"] for trial in document["trials"]]
    assert document["best"]["value"] == min(values) < 2 * (0.9 - 0.3) ** 2
    for trial in document["trials"]:
        assert trial["value"] == pytest.approx(2 * (trial["params"]["lr"] - 0.3) ** 2)
        assert list(trial["curve"]) == [str(step) for step in range(1, 10)]
    shown = project.type("dvc exp show --json")
    assert all(f"six-{number}" in shown for number in range(6))
    stages = {path.name.split("-")[1] for path in (project.path / ".retrace").rglob("*-*.jsonl")}
    assert stages == {"fit"}, "the stage after it does not run"
    assert not project.type("git status --porcelain")


def test_trials_are_below_the_sweep(project: Project) -> None:
    client = mlflow.MlflowClient(f"sqlite:///{project.path / 'mlflow.db'}")
    experiment = client.get_experiment_by_name(project.path.name)
    assert experiment
    runs = client.search_runs([experiment.experiment_id])
    (above,) = [run for run in runs if run.data.tags.get("retrace.sweep.summary") == "six"]
    below = [run for run in runs if run.data.tags.get("retrace.sweep") == "six"]
    assert {run.info.run_name for run in below} == {f"six-{number}" for number in range(6)}
    assert {run.data.tags["mlflow.parentRunId"] for run in below} == {above.info.run_id}
    assert above.data.metrics["loss"] == min(run.data.metrics["loss"] for run in below)
    assert above.data.params == {"lr": "0.0..1.0"}


def test_equal_trial_comes_from_the_cache(project: Project) -> None:
    n_logs = len(list((project.path / ".retrace").rglob("*-fit-*.jsonl")))
    changed = ("train.toml:loss.scale=2,3", "lr=0.9", "--name", "cached")
    document = sweep(project, *changed)
    assert sorted(trial["params"]["train.toml:loss.scale"] for trial in document["trials"]) == [
        2,
        3,
    ]
    assert all(len(trial["curve"]) == 9 for trial in document["trials"])
    assert sweep(project, *changed) == document
    # The first is the pipeline as it is.
    assert len(list((project.path / ".retrace").rglob("*-fit-*.jsonl"))) == n_logs + 1


def test_killed_sweep_resumes(project: Project) -> None:
    words = ("lr=0.1,0.2", "pause=0.5", "--name", "killed")
    with subprocess.Popen(
        ["retrace", "sweep", *words, *LOSS], cwd=project.path, env=project.env
    ) as process:

        def begun() -> bool:
            logs = (project.path / ".retrace/journal").glob("*-fit-*.jsonl")
            return any(len(event_log.read(log)) > 1 for log in logs)

        until(begun, 100.0, "the first trial")
        process.send_signal(signal.SIGKILL)
    document = sweep(project, *words)
    assert [trial["state"] for trial in document["trials"]] == ["complete"] * 2
    assert {trial["experiment"] for trial in document["trials"]} == {"killed-0", "killed-1"}
    assert not list((project.path / ".retrace/sweeps").glob("*/tree-*"))


def test_bad_trial_is_pruned(project: Project) -> None:
    study = optuna.create_study(
        storage=f"sqlite:///{project.path / '.retrace/sweeps.db'}",
        study_name="hopeless",
        direction="minimize",
    )
    for number in range(5):
        good = optuna.trial.create_trial(
            params={"lr": 0.3 + number / 100},
            distributions={"lr": FloatDistribution(0.0, 100.0)},
            intermediate_values={step: 1 / step for step in range(1, 10)},
            user_attrs={"experiment": "six-0"},
            value=0.0,
        )
        study.add_trial(good)
    study.enqueue_trial({"lr": 99.0})
    words = ("lr=0.0..100.0", "pause=3", "--trials", "6", "--name", "hopeless")
    last = sweep(project, *words)["trials"][-1]
    assert last["state"] == "pruned"
    assert 3 <= len(last["curve"]) < 9
    assert "hopeless-5" not in project.type("dvc exp list --name-only")


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["lr=0..1"], ["settings is 'test_loss'", "accuracy, loss", "--metric NAME"]),
        (["lr=0..1", "--metric", "test_loss"], ["--metric", "'test_loss'", "accuracy, loss"]),
        (["lr=0..1", "--metric", "los"], ["'los'", "no stage makes", "accuracy, loss"]),
        (["rl=0..1", *LOSS], ["params.yaml: rl", "lr, pause, kind, kinds.a.width"]),
        (["scale=0..1", *LOSS], ["scale", "did you mean", "train.toml:loss.scale"]),
        (["split=0..1", *LOSS], ["split", "no stage up to fit reads it", "kinds.a.width"]),
        (["title=a,b", *LOSS], ["title", "no stage up to fit reads it"]),
        (["kinds.b.depth=1,2", "kind=b", *LOSS], ["kinds.b.depth", "sweep.fixed"]),
        (["kind=a,c", *LOSS], ["kinds.c"]),
        (["kind=0..1", *LOSS], ["kind", "'0..1'", "kind=A,B"]),
        (["lr=0.1,fast", *LOSS], ["params.yaml: lr", "'fast'", "number"]),
    ],
)
def test_mistake_is_one_line(
    project: Project, words: list[str], parts: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project.path)
    parser = arguments.parser({"sweep": cast("Command", cli_sweep)})
    with pytest.raises(RetraceError) as raised:
        cli_sweep.run(parser.parse_args(["sweep", *words]))
    assert "\n" not in str(raised.value)
    for part in parts:
        assert part in str(raised.value)
