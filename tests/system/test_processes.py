"""A training in several processes, on one machine and on two, as docs/cluster.md says."""

import shutil
from concurrent.futures import ThreadPoolExecutor

import pytest
from cluster.lab import SMALL
from faults.stages import find_runs
from launched import results, set_params, unused_port
from repository import Clone, Tree

from lab import paths

pytestmark = [pytest.mark.long, pytest.mark.xdist_group("processes")]
HOST = "127.0.0.1"
EDITS = SMALL | {"epochs: 5": "epochs: 2"}


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Clone:
    clone = Clone(tmp_path_factory.mktemp("clone"), tmp_path_factory.mktemp("cache"), EDITS)
    clone.type("dvc repro preprocess")
    clone.commit("preprocessed")
    return clone


def test_experiment_gives_same_bytes_again(clone: Clone) -> None:
    clone.type("dvc exp run -S processes=3")
    first = results(clone.path)
    runs = find_runs(f"sqlite:///{clone.path / 'mlflow.db'}", stage="train")
    assert [(run.info.status, run.data.params["processes"]) for run in runs] == [("FINISHED", "3")]
    (clone.path / paths.WEIGHTS).unlink()
    clone.type("dvc exp run --force -S processes=3 train")
    second = results(clone.path)
    for name in ("models/model.safetensors", "reports/history.csv"):
        assert second[name] == first[name]


def test_two_machines_train_as_one(clone: Clone) -> None:
    clone.type("git restore .")
    set_params(clone.path, processes="2")
    other = Tree(clone.path.parent / "other", clone.path.parent / "other-cache")
    shutil.copytree(clone.path, other.path)
    other.type("dvc repro train")
    alone = results(other.path)
    (other.path / paths.WEIGHTS).unlink()
    address = f"{HOST}:{unused_port()}"
    with ThreadPoolExecutor() as pool:
        train = (
            f"RETRACE_NODES=2 RETRACE_NODE=1 RETRACE_RENDEZVOUS={address} "
            "PYTHONPATH=src python stages/train.py"
        )
        second = pool.submit(lambda: other.type(train))
        clone.type(f"RETRACE_NODES=2 RETRACE_NODE=0 RETRACE_RENDEZVOUS={address} dvc repro train")
        second.result()
    assert results(clone.path) == alone
    assert not (other.path / paths.WEIGHTS).exists()
