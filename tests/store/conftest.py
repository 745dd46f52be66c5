"""A small history with one DVC experiment, whose results MLflow has."""

import shutil
from pathlib import Path

import history as benchmark
import mlflow
import pytest
from repository import Tree

from retrace.cli import sync


@pytest.fixture
def fits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, empty_store: Path) -> mlflow.MlflowClient:
    """The store of a repository with the experiment `first`, which is the working directory."""
    for name in ("MLFLOW_TRACKING_URI", "DVC_ROOT", "DVC_STAGE"):
        monkeypatch.delenv(name, raising=False)
    path = tmp_path / "fits"
    benchmark.create(path, map(benchmark.commit_files, range(2)))
    shutil.copy(empty_store, path / "mlflow.db")
    monkeypatch.chdir(path)
    tree = Tree(path, tmp_path)
    base, top = tree.run("git", "rev-parse", "HEAD~1", "HEAD").split()
    tree.run("git", "update-ref", f"refs/exps/{base[:2]}/{base[2:]}/first", top)
    tree.run("git", "reset", "--quiet", "--hard", base)
    sync.sync()
    return mlflow.MlflowClient(f"sqlite:///{path / 'mlflow.db'}")
