"""`retrace dvc` in a repository that knows nothing of retrace: its runs, and commands on them."""

import json
from pathlib import Path

import mlflow
import pytest
from faults.servers import until
from mlflow.entities import Run
from stranger import Project

from retrace.pipeline.workspace import Workspace

DVC_YAML = """
vars:
  - conf/names.yaml
stages:
  report:  # before the stages that it reads
    wdir: sub dir
    cmd:
      - cat ../model-a.bin ../model-b.bin > all.bin
      - "echo '{\\"total\\": 3}' > ../summary.json"
    deps: [../model-a.bin, ../model-b.bin]
    outs: [all.bin, ../summary.json: {cache: false}]
  fit:
    foreach: ${names}
    do:
      cmd: sh fit.sh ${item}
      deps: [fit.sh, data/part.csv]
      params: [lr, conf/model.toml: [net.width]]
      outs: ["model-${item}.bin"]
      metrics: ["metrics-${item}.yaml": {cache: false}]
      plots: ["curve-${item}.tsv": {x: epoch, y: loss, cache: false}]
  prepare:
    cmd: mkdir -p data live && cp raw.csv data/part.csv && echo '{"rows":1}' > live/metrics.json
    deps: [raw.csv]
    outs: [data]
metrics: [summary.json, live/metrics.json]  # the second is of no stage
"""
FIT = """
printf 'epoch\\tloss\\n0\\t0.5\\n1\\t0.25\\n' > curve-$1.tsv
lr=$(sed -n 's/^lr: //p' params.yaml)
echo "$1 $lr" > model-$1.bin
printf "scores:\\n  acc: 0.7\\n  lr: $lr\\nnote: good\\n" > metrics-$1.yaml
"""
FILES = {
    "dvc.yaml": DVC_YAML,
    "fit.sh": FIT,
    "conf/names.yaml": "names: [a, b]\n",
    "conf/model.toml": "[net]\nwidth = 3\n",
    "params.yaml": "lr: 0.1\n",
    "raw.csv": "1,2\n",
    "sub dir/.gitkeep": "",
}
pytestmark = pytest.mark.slow
STAGES = {"prepare", "fit@a", "fit@b", "report"}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Project:
    """Return a repository whose pipeline ran, and three experiments: here, --temp and queued."""
    folder = tmp_path_factory.mktemp("stranger")
    project = Project(folder, tmp_path_factory.mktemp("cache"), empty_store, {}, FILES)
    project.type("git rm --quiet --cached raw.csv && dvc add --quiet raw.csv")
    project.commit("add raw.csv")
    project.type("retrace dvc repro")
    project.commit("reproduced")
    project.type("retrace dvc exp run --name here -S lr=0.01")
    project.type("retrace dvc exp run --name temporary --temp -S lr=0.2")
    project.type("dvc exp run --name queued --queue -S lr=0.3")
    project.type("retrace dvc queue start")
    until(lambda: "queued" in project.type("dvc exp list --name-only"), 120.0, "the queue")
    logs = folder / ".retrace/journal"
    until(lambda: not any(logs.glob("*.jsonl")), 120.0, "the uploads")
    return project


@pytest.fixture(scope="module")
def client(project: Project) -> mlflow.MlflowClient:
    return mlflow.MlflowClient(f"sqlite:///{project.path / 'mlflow.db'}")


def parents(client: mlflow.MlflowClient, folder: Path) -> dict[str, Run]:
    """Return the experiments by their value of lr."""
    experiment = client.get_experiment_by_name(folder.name)
    assert experiment
    runs = client.search_runs([experiment.experiment_id], "tags.`retrace.key` LIKE '%'")
    return {run.data.params["lr"]: run for run in runs}


def stages(client: mlflow.MlflowClient, parent: Run) -> dict[str, Run]:
    query = f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'"
    runs = client.search_runs([parent.info.experiment_id], query)
    return {run.data.tags["retrace.stage"]: run for run in runs}


def test_each_experiment_is_a_run(project: Project, client: mlflow.MlflowClient) -> None:
    experiments = parents(client, project.path)
    names = {lr: run.data.tags.get("dvc.exp_name") for lr, run in experiments.items()}
    assert names == {"0.1": None, "0.01": "here", "0.2": "temporary", "0.3": "queued"}
    assert {run.info.status for run in experiments.values()} == {"FINISHED"}
    assert {run.data.params["conf/model.toml:net.width"] for run in experiments.values()} == {"3"}


def test_each_stage_is_a_run(project: Project, client: mlflow.MlflowClient) -> None:
    experiments = parents(client, project.path)
    assert set(stages(client, experiments["0.1"])) == STAGES
    for lr in ("0.01", "0.2", "0.3"):
        assert set(stages(client, experiments[lr])) == {"fit@a", "fit@b", "report"}
        assert "retrace.cached.prepare" in experiments[lr].data.tags


def test_metrics_and_curves(project: Project, client: mlflow.MlflowClient) -> None:
    parent = parents(client, project.path)["0.2"]
    assert parent.data.metrics == {
        "fit:at:a/scores.acc": 0.7,
        "fit:at:a/scores.lr": 0.2,
        "fit:at:b/scores.acc": 0.7,
        "fit:at:b/scores.lr": 0.2,
        "total": 3.0,
        "rows": 1.0,
    }
    fit = stages(client, parent)["fit@a"]
    history = client.get_metric_history(fit.info.run_id, "loss")
    assert [(point.step, point.value) for point in history] == [(0, 0.5), (1, 0.25)]
    assert fit.data.tags["note"] == "good"
    assert "rows" not in fit.data.metrics


def test_hashes_are_those_of_dvc_lock(project: Project, client: mlflow.MlflowClient) -> None:
    locked = Workspace(project.path).locked
    made_by = stages(client, parents(client, project.path)["0.01"])
    for name in ("fit@a", "fit@b", "report"):
        tags = made_by[name].data.tags
        for kind, recorded in (("deps", locked[name].deps), ("outs", locked[name].outs)):
            for path, recorded_hash in recorded.items():
                assert recorded_hash
                assert tags[f"dvc.{kind}.{path}"] == recorded_hash.value


def test_commands_know_the_runs(project: Project) -> None:
    assert "added or completed: 3 experiments" in project.type("retrace sync")
    assert "added or completed: 0 experiments" in project.type("retrace sync")
    board = json.loads(project.type("retrace leaderboard --metric fit:at:a/scores.lr --json"))
    assert [row["mean"] for row in board["rows"]] == [0.3, 0.2, 0.1, 0.01]
    compared = json.loads(project.type("retrace compare here queued --json"))
    assert compared["params"] == {"lr": ["0.01", "0.3"]}
    traced = project.type("retrace trace model-a.bin")
    assert traced.splitlines()[1].startswith("└── fit@a, run ")
    assert "preprocess" not in traced
    assert "prepare, run " in traced


def test_nothing_is_changed(project: Project) -> None:
    assert project.type("dvc status --quiet") == ""
    assert "retrace" not in project.type("git status --short --untracked-files=all")


def test_primary_metric_is_a_setting(project: Project) -> None:
    missing = project.run("retrace", "leaderboard", code=2)
    assert missing.startswith("--metric is missing; should be one of fit:at:a/scores.acc")
    (project.path / "retrace.toml").write_text('metrics = {primary = "total"}\n')
    assert "total" in project.type("retrace leaderboard").splitlines()[0]
    (project.path / "retrace.toml").unlink()
