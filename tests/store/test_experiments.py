"""A history that retrace has not seen, as runs in MLflow: each experiment and stage once."""

import json
import shutil
from pathlib import Path

import history as benchmark
import mlflow
import pytest
from faults.servers import rows
from mlflow.entities import Run
from repository import Tree

from retrace.cli import sync
from retrace.compare import leaderboard
from retrace.store import cached_stages, experiments, importing, new_runs

N = 12  # commits; two of them run all three stages, the others two
STAGES = ("prepare", "train", "evaluate")


@pytest.fixture
def store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, empty_store: Path
) -> mlflow.MlflowClient:
    """The empty store of a repository with a history, which is the working directory."""
    for name in ("MLFLOW_TRACKING_URI", "DVC_ROOT", "DVC_STAGE"):
        monkeypatch.delenv(name, raising=False)
    path = tmp_path / "fits"
    benchmark.create(path, map(benchmark.commit_files, range(N)))
    shutil.copy(empty_store, path / "mlflow.db")
    monkeypatch.chdir(path)
    return mlflow.MlflowClient(f"sqlite:///{path / 'mlflow.db'}")


def runs_of(store: mlflow.MlflowClient) -> tuple[list[Run], list[Run]]:
    """Return the runs of experiments and those of stages, oldest first."""
    experiment = store.get_experiment_by_name("fits")
    assert experiment
    runs = store.search_runs([experiment.experiment_id], order_by=["start_time ASC"])
    parents = [run for run in runs if "retrace.key" in run.data.tags]
    return parents, [run for run in runs if "retrace.stage" in run.data.tags]


def links(parent: Run, kind: str) -> set[str]:
    prefix = {"run": "mlflow.retrace.run", "cached": "retrace.cached"}[kind]
    return {stage for stage in STAGES if f"{prefix}.{stage}" in parent.data.tags}


def test_each_commit_is_a_run(store: mlflow.MlflowClient) -> None:
    sync.sync(all_commits=True)
    parents, stages = runs_of(store)
    assert len(parents) == N
    assert len(stages) == 2 + N + N
    assert {run.info.status for run in (*parents, *stages)} == {"FINISHED"}
    assert links(parents[0], "run") == set(STAGES)
    assert links(parents[1], "run") == {"train", "evaluate"}
    assert links(parents[1], "cached") == {"prepare"}
    second = parents[1]
    assert (
        second.info.run_name
        == f"{second.data.tags['mlflow.source.git.commit'][:7]} Change number 1"
    )
    assert second.info.start_time == second.info.end_time == (benchmark.BEGAN + 60) * 1000
    assert second.data.params == {"lr": "0.0002", "net.width": "8"}
    assert second.data.metrics["val_a"] == 1 / 3
    assert second.data.tags["mlflow.user"] == "Ann"


def test_stage_has_what_dvc_lock_records(store: mlflow.MlflowClient) -> None:
    sync.sync(all_commits=True)
    _, stages = runs_of(store)
    evaluate = next(run for run in stages if run.data.tags["retrace.stage"] == "evaluate")
    assert evaluate.data.tags["retrace.source"] == "dvc.lock"
    assert set(cached_stages.hashes(evaluate, "deps")) == {"evaluate.py", "model.bin", "data.csv"}
    assert set(cached_stages.hashes(evaluate, "outs")) == {"metrics.json"}
    assert evaluate.data.metrics == cached_stages.summary(evaluate)
    train = next(run for run in stages if run.data.tags["retrace.stage"] == "train")
    assert train.data.params == {"lr": "0.0001", "net.width": "8"}


def test_second_sync_changes_no_row(store: mlflow.MlflowClient) -> None:
    sync.sync(all_commits=True)
    before = rows("sqlite:///mlflow.db")
    sync.sync(all_commits=True)
    sync.sync()
    assert rows("sqlite:///mlflow.db") == before


def test_sync_alone_adds_the_workspace(store: mlflow.MlflowClient) -> None:
    sync.sync()
    (parent,), stages = runs_of(store)
    assert len(stages) == 3
    assert str(parent.info.run_name)[8:] == f"Change number {N - 1}"
    sync.sync(all_commits=True)
    assert len(runs_of(store)[0]) == N
    assert len(runs_of(store)[1]) == 2 + N + N


@pytest.mark.parametrize("is_fast", [True, False])
def test_interrupted_sync_is_completed(
    store: mlflow.MlflowClient, monkeypatch: pytest.MonkeyPatch, is_fast: bool
) -> None:
    """With the client, the interruption is in the middle of an experiment."""
    writer = new_runs.DatabaseRuns if is_fast else new_runs.ClientRuns
    monkeypatch.setattr(new_runs, "writer", writer)
    monkeypatch.setattr(importing, "PER_TRANSACTION", 2)
    usual = writer.finish
    n_calls = 0

    def finish(self: new_runs.NewRuns, run: str, content: new_runs.Content) -> None:
        nonlocal n_calls
        n_calls += 1
        if n_calls == 8:  # evaluate of the third experiment
            raise KeyboardInterrupt
        usual(self, run, content)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(writer, "finish", finish)
    with pytest.raises(KeyboardInterrupt):
        sync.sync(all_commits=True)
    assert len(runs_of(store)[0]) == (2 if is_fast else 3)
    monkeypatch.setattr(writer, "finish", usual)
    sync.sync(all_commits=True)
    parents, stages = runs_of(store)
    assert (len(parents), len(stages)) == (N, 2 + N + N)
    assert {run.info.status for run in (*parents, *stages)} == {"FINISHED"}
    assert all("val_a" in run.data.metrics for run in parents)


def test_broken_commit_is_skipped(
    store: mlflow.MlflowClient, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tree = Tree(Path.cwd(), tmp_path)
    good = Path("dvc.lock").read_text()
    Path("dvc.lock").write_text("<<<<<<< HEAD\n" + good)
    tree.commit("conflict")
    rev = tree.run("git", "rev-parse", "--short=7", "HEAD").strip()
    Path("dvc.lock").write_text(good)
    tree.commit("solved")
    sync.sync(all_commits=True, as_json=True)
    printed = capsys.readouterr()
    assert json.loads(printed.out)["added"] == N
    (line,) = printed.err.splitlines()
    assert line.startswith(f"skipped commit {rev}: dvc.lock: is not valid")


def test_same_experiment_is_one_run(store: mlflow.MlflowClient, tmp_path: Path) -> None:
    tree = Tree(Path.cwd(), tmp_path)
    for number in range(2):
        Path("README.md").write_text(f"{number}\n")
        tree.commit(f"document {number}")
    sync.sync(all_commits=True)
    parents, _ = runs_of(store)
    assert len(parents) == N
    assert str(parents[-1].info.run_name)[8:] == f"Change number {N - 1}"


def test_experiments_of_dvc_are_named(store: mlflow.MlflowClient, tmp_path: Path) -> None:
    tree = Tree(Path.cwd(), tmp_path)
    base, top = tree.run("git", "rev-parse", "HEAD~1", "HEAD").split()
    tree.run("git", "update-ref", f"refs/exps/{base[:2]}/{base[2:]}/tall-elm", top)
    tree.run("git", "reset", "--quiet", "--hard", base)
    assert experiments.add_missing(store).n == 2
    parents, _ = runs_of(store)
    (named,) = (run for run in parents if "dvc.exp_name" in run.data.tags)
    assert named.info.run_name == "tall-elm"
    assert named.data.tags["dvc.exp_rev"] == top
    assert named.data.tags["dvc.baseline_rev"] == base
    assert experiments.add_missing(store, all_commits=True).n == N - 2
    assert len(runs_of(store)[0]) == N


def test_leaderboard_ranks_commits(store: mlflow.MlflowClient) -> None:
    sync.sync(all_commits=True)
    board = leaderboard.board(None, "val_a", 3)
    assert [row.mean for row in board.rows] == [1 / 2, 1 / 3, 1 / 4]
