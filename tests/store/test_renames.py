"""Names of DVC's experiments in MLflow, after `dvc exp rename` here and in other clones."""

from pathlib import Path

import mlflow
import pytest
from faults.servers import rows
from mlflow.entities import Run
from mlflow_runs import experiments_by_name
from repository import Tree

from retrace.cli import sync
from retrace.pipeline import git
from retrace.store import renames


def rename(old: str, new: str, commit: str = "") -> None:
    """Rename a DVC experiment as `dvc exp rename` does; or give the name to another commit."""
    tree = Tree(Path.cwd(), Path.cwd())
    (ref,) = (each for each in git.experiments() if each.name == old)
    folder = f"refs/exps/{ref.baseline[:2]}/{ref.baseline[2:]}"
    tree.run("git", "update-ref", "-d", f"{folder}/{old}")
    tree.run("git", "update-ref", f"{folder}/{new}", commit or ref.rev)


def first(store: mlflow.MlflowClient) -> Run:
    """Return the one experiment that DVC has named."""
    (run,) = (run for run in experiments_by_name(store).values() if "dvc.exp_name" in run.data.tags)
    return run


def test_run_follows_rename_and_back(fits: mlflow.MlflowClient) -> None:
    before = first(fits)
    for old, new in (("first", "second"), ("second", "first")):
        rename(old, new)
        sync.sync()
        run = first(fits)
        assert run.info.run_id == before.info.run_id
        assert (run.info.run_name, run.data.tags["dvc.exp_name"]) == (new, new)
        assert run.data.tags["dvc.exp_rev"] == before.data.tags["dvc.exp_rev"]
        before_again = rows("sqlite:///mlflow.db")
        sync.sync()
        assert rows("sqlite:///mlflow.db") == before_again


def test_name_of_a_user_stays(fits: mlflow.MlflowClient) -> None:
    fits.set_tag(first(fits).info.run_id, "mlflow.runName", "the good one")
    rename("first", "second")
    sync.sync()
    run = first(fits)
    assert (run.info.run_name, run.data.tags["dvc.exp_name"]) == ("the good one", "second")


def test_rename_before_first_sync(fits: mlflow.MlflowClient) -> None:
    """A tracked experiment does not know its commit yet."""
    run_id = first(fits).info.run_id
    fits.delete_tag(run_id, "dvc.exp_rev")
    Path(".retrace", renames.FILE).unlink()
    rename("first", "second")
    sync.sync()
    run = first(fits)
    assert run.info.run_id == run_id
    assert run.data.tags["dvc.exp_name"] == "second"


def test_clones_do_not_rename_in_turns(fits: mlflow.MlflowClient) -> None:
    """Another clone has renamed the experiment since this one passed on its name."""
    renames.rename(fits, first(fits), renamed("theirs"))
    before = rows("sqlite:///mlflow.db")
    sync.sync()
    assert rows("sqlite:///mlflow.db") == before


def renamed(name: str) -> git.ExperimentRef:
    (ref,) = git.experiments()
    return git.ExperimentRef(name, ref.baseline, ref.rev, ref.time)


@pytest.mark.parametrize("name", ["first", "again"])
def test_commit_made_again(fits: mlflow.MlflowClient, name: str) -> None:
    """The experiment was removed, run again and `git gc` has deleted its old commit."""
    run_id = first(fits).info.run_id
    old = first(fits).data.tags["dvc.exp_rev"]
    tree = Tree(Path.cwd(), Path.cwd())
    who = ("-c", "user.name=test", "-c", "user.email=test@localhost")
    commit = ("commit-tree", "-m", "again", "-p", f"{old}^", f"{old}^{{tree}}")
    new = tree.run("git", *who, *commit).strip()
    rename("first", name, new)
    tree.run("git", "reflog", "expire", "--expire=now", "--all")
    tree.run("git", "gc", "--quiet", "--prune=now")
    assert not git.has_commit(old)
    sync.sync()
    run = first(fits)
    assert run.info.run_id == run_id
    assert (run.data.tags["dvc.exp_name"], run.data.tags["dvc.exp_rev"]) == (name, new)
