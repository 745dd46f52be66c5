"""A training on a Ray cluster whose machine dies: it resumes on another one, to the same bytes."""

import signal
import time
from pathlib import Path

import pytest
from cluster.conftest import Cluster, running
from cluster.lab import Lab
from faults.servers import until
from mlflow import MlflowClient

pytestmark = [pytest.mark.long, pytest.mark.xdist_group("ray")]
EPOCHS = 30


@pytest.fixture
def lab(cluster: Cluster, tmp_path: Path, empty_store: Path) -> Lab:
    lab = Lab(tmp_path, empty_store, EPOCHS)
    lab.env |= cluster.env
    return lab


def test_training_resumes_on_another_machine(cluster: Cluster, lab: Lab) -> None:
    before = event_logs(cluster)  # of other tests
    with running(lab, "train", "--name", "one") as process:
        until(lambda: lab.newest() >= 20, 300, what="a checkpoint")
        first = next(
            each for each in (cluster.head, cluster.second) if each.processes("stages/train.py")
        )
        at = lab.newest()
        if first is cluster.second:
            first.kill()
        else:  # the driver is on this machine too: end only what runs the experiment
            for each in first.processes("ray::run_task"):
                for below in [*each.children(recursive=True), each]:
                    below.send_signal(signal.SIGKILL)
        began = time.monotonic()
        until(lambda: len(event_logs(cluster) - before) == 2, 120, what="the retry")
        print(f"train began again {time.monotonic() - began:.1f} s after the kill")
        printed, _ = process.communicate(timeout=300)
        assert process.returncode == 0, printed
    if first is cluster.second:
        cluster.second.stop()
        cluster.join()
    (resumed,) = resumed_from(lab)
    assert resumed >= at > 0
    commit = lab.type("git ls-remote origin 'refs/exps/*/one'").split()[0]
    resumed_weights = lab.weights(commit)
    lab.run("dvc", "repro", "train")
    assert resumed_weights == lab.weights()


def event_logs(cluster: Cluster) -> set[str]:
    """Return the names of the event logs of training, uploaded or not."""
    paths = cluster.folder.glob("*/cluster/*/journal/**/*-train-*.jsonl")
    return {path.name for path in paths}


def resumed_from(lab: Lab) -> list[int]:
    """Return the steps from which trainings resumed."""
    client = MlflowClient(f"sqlite:///{lab.path / 'mlflow.db'}")
    runs = client.search_runs([each.experiment_id for each in client.search_experiments()])
    tags = [
        run.data.tags.get("retrace.resumed", "") for run in runs if "retrace.stage" in run.data.tags
    ]
    return [int(tag.split()[2]) for tag in tags if tag]
