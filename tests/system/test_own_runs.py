"""Stages that call MLflow themselves, unchanged, below `retrace dvc`."""

import subprocess
import sys
from pathlib import Path

import mlflow
import pytest
from mlflow.entities import Run
from stranger import Project

FLUENT = """
import mlflow
with mlflow.start_run(run_name="outer"):
    mlflow.log_metric("loss", 0.5, step=1)
    with mlflow.start_run(run_name="inner", nested=True):
        mlflow.log_metric("loss", 7.0)
    mlflow.log_text("hello", "note.txt")
    open("id.txt", "w").write(mlflow.active_run().info.run_id)
"""
ELSEWHERE = """
import os
import mlflow
mlflow.set_experiment("theirs")
mlflow.start_run(run_name="open")
mlflow.log_metric("loss", 9.0)
os._exit(0)
"""
OWN = """
import os
os.environ["MLFLOW_ALLOW_FILE_STORE"] = "true"
import mlflow
for uri in ("file:./mlruns", "sqlite:///own.db"):
    mlflow.set_tracking_uri(uri)
    with mlflow.start_run(run_name=uri):
        mlflow.log_metric("acc", 0.25)
        mlflow.log_text("own", "own.txt")
"""
LOAD = """
import mlflow
print(mlflow.artifacts.load_text(f"runs:/{open('id.txt').read()}/note.txt"))
"""
OLD = "mlflow-skinny==2.13.*"  # it cannot open a newer SQLite store
FILES = {
    "fluent.py": FLUENT,
    "elsewhere.py": ELSEWHERE,
    "own.py": OWN,
    "load.py": LOAD,
    ".gitignore": "/old\n/own.db\n",
}
STAGES = {
    "fluent": {"cmd": f"{sys.executable} fluent.py", "deps": ["fluent.py"], "outs": ["id.txt"]},
    "elsewhere": {
        "cmd": f"{sys.executable} elsewhere.py && echo '{{\"loss\": 1}}' > elsewhere.json",
        "deps": ["elsewhere.py", "id.txt"],
        "metrics": [{"elsewhere.json": {"cache": False}}],
    },
    "own": {
        "cmd": f"{sys.executable} own.py",
        "deps": ["own.py", "elsewhere.json"],
        "outs": ["mlruns"],
    },
    "load": {"cmd": f"{sys.executable} load.py", "deps": ["load.py", "id.txt", "mlruns"]},
    "old": {"cmd": "old/bin/python -W ignore fluent.py && rm id.txt", "frozen": True},
}
pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Project:
    """Return a project whose stages have run."""
    folder = tmp_path_factory.mktemp("project")
    project = Project(folder, tmp_path_factory.mktemp("cache"), empty_store, STAGES, FILES)
    (folder / "mlflow.db").unlink()
    assert "\nhello\n" in project.type("retrace dvc repro load")
    return project


@pytest.fixture(scope="module")
def client(project: Project) -> mlflow.MlflowClient:
    return mlflow.MlflowClient(f"sqlite:///{project.path / 'mlflow.db'}")


def run(client: mlflow.MlflowClient, name: str) -> Run:
    """Return the run of this name."""
    experiments = [each.experiment_id for each in client.search_experiments()]
    (only,) = client.search_runs(experiments, f"attributes.run_name = '{name}'")
    return only


def parent(run: Run) -> str | None:
    return run.data.tags.get("mlflow.parentRunId")


def test_fluent_runs_are_below(client: mlflow.MlflowClient) -> None:
    stage = run(client, "fluent")
    outer = run(client, "outer")
    inner = run(client, "inner")
    assert (parent(outer), parent(inner)) == (stage.info.run_id, outer.info.run_id)
    assert outer.info.experiment_id == stage.info.experiment_id
    assert stage.data.metrics["loss"] == 0.5
    assert [point.step for point in client.get_metric_history(outer.info.run_id, "loss")] == [1]


def test_other_experiment_is_linked(client: mlflow.MlflowClient) -> None:
    stage = run(client, "elsewhere")
    own = run(client, "open")
    assert (parent(own), own.info.status) == (None, "FINISHED")
    assert own.data.tags["retrace.below.run"] == stage.info.run_id
    assert own.info.run_id in stage.data.tags["retrace.runs"]
    assert (own.data.metrics["loss"], stage.data.metrics["loss"]) == (9, 1)


@pytest.mark.parametrize("store", ["file:./mlruns", "sqlite:///own.db"])
def test_own_store_is_kept_and_copied(
    project: Project, client: mlflow.MlflowClient, store: str
) -> None:
    copy = run(client, store)
    assert parent(copy) == run(client, "own").info.run_id
    assert copy.data.metrics == {"acc": 0.25}
    assert [file.path for file in client.list_artifacts(copy.info.run_id)] == ["own.txt"]
    assert Path(str(copy.info.artifact_uri)).is_relative_to(
        Path(f"file:{project.path}/.retrace/mlruns")
    )
    assert (project.path / "own.db").exists()
    assert list((project.path / "mlruns").glob("*/meta.yaml"))


def test_dvc_knows_no_difference(project: Project) -> None:
    assert project.type("dvc status --quiet load") == ""
    assert "retrace" not in project.type("git status --short --untracked-files=all")
    assert "3 event logs" not in project.type("retrace sync")
    assert not list((project.path / ".retrace" / "servers").glob("*.json"))


def test_client_of_an_old_mlflow(project: Project, client: mlflow.MlflowClient) -> None:
    words = ("uv", "pip", "install", "--quiet", "--python", "old", OLD, "setuptools<81")
    subprocess.run(["uv", "venv", "--quiet", "old"], cwd=project.path, check=True)
    if subprocess.run(words, cwd=project.path, check=False).returncode:
        pytest.skip(f"{OLD} cannot be installed")
    document = (project.path / "dvc.yaml").read_text()
    (project.path / "dvc.yaml").write_text(document.replace("frozen: true", "frozen: false"))
    project.type("retrace dvc repro --single-item old")
    stage = run(client, "old")
    query = f"tags.`retrace.below.run` = '{stage.info.run_id}'"
    names = {each.info.run_name for each in client.search_runs([stage.info.experiment_id], query)}
    assert names == {"outer", "inner"}
