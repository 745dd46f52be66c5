"""`retrace cluster` on a real Ray of two nodes: experiments, GPUs, signals, kills."""

import os
import signal
import subprocess
import tempfile
import time
from pathlib import Path

import psutil
import pytest
from cluster.conftest import Cluster, Machine, Repository, running
from faults.servers import until, unused_port
from mlflow import MlflowClient
from mlflow.entities import Run
from repository import Tree

pytestmark = [pytest.mark.long, pytest.mark.xdist_group("ray")]
GRID = ("-S", "lr=0.01,0.02", "-S", "seed=0,1")
ENDS_S = 10.0  # for what is below a dead raylet


def parents(repository: Repository) -> list[Run]:
    """Return the runs of experiments in MLflow."""
    client = MlflowClient(repository.store)
    runs = client.search_runs([each.experiment_id for each in client.search_experiments()])
    return [run for run in runs if "retrace.stage" not in run.data.tags]


def logs(cluster: Cluster) -> list[Path]:
    """Return the event logs of both nodes."""
    return [path for node in ("head", "second") for path in _logs(cluster.folder / node)]


def _logs(folder: Path) -> list[Path]:
    return list(folder.rglob("journal/**/*.jsonl"))


def training(machine: Machine) -> list[psutil.Process]:
    return machine.processes("train.py")


def test_nodes_are_up(cluster: Cluster) -> None:
    assert cluster.head.took_s < 60
    assert cluster.second.took_s < 60
    assert cluster.token.stat().st_mode & 0o777 == 0o600
    status = cluster.head.tree.run("retrace", "cluster", "status")
    assert status.count("1 CPU") == 2
    assert "2 GPUs" in status


def test_stopped_node_ends(cluster: Cluster) -> None:
    other = Machine({"RAY_TMPDIR": cluster.env["RAY_TMPDIR"]}, cluster.folder, "third")
    host, port = cluster.address.split(":")
    token = f"RAY_AUTH_TOKEN_PATH={cluster.token}"
    other.tree.type(f"{token} retrace cluster join {host}:{port} --num-cpus 0 --num-gpus 0")
    assert "0 CPUs, 0 GPUs" in cluster.head.tree.run("retrace", "cluster", "status")
    ray = other.ray
    other.tree.type("retrace cluster stop")
    assert not ray.is_running()


def test_cluster_without_a_token_makes_one(tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="ray-") as sockets:
        machine = Machine({"RAY_TMPDIR": sockets, "HOME": str(tmp_path)}, tmp_path, "alone")
        printed = machine.tree.type(f"retrace cluster start --port {unused_port()} --num-cpus 1")
        try:
            token = tmp_path / ".ray/auth_token"
            assert token.stat().st_mode & 0o777 == 0o600
            assert str(token) in printed
            assert "1 CPU" in machine.tree.type("retrace cluster status")
        finally:
            machine.tree.type("retrace cluster stop")


def test_driver_needs_the_token(cluster: Cluster, tmp_path: Path) -> None:
    other = tmp_path / "token"
    other.write_text("0" * 64)
    other.chmod(0o600)
    token = {"RAY_AUTH_TOKEN_PATH": str(other)}
    printed = cluster.head.tree.run("retrace", "cluster", "status", code=2, **token)
    assert printed.count("\n") == 1
    assert cluster.address in printed
    other.unlink()
    printed = cluster.head.tree.run("retrace", "cluster", "status", code=2, **token)
    assert printed.count("\n") == 1
    assert str(other) in printed


def test_grid_is_run_once(cluster: Cluster, repository: Repository) -> None:
    (repository.path / "train.py").write_text((repository.path / "train.py").read_text() + "# new")
    printed = repository.run("retrace", "cluster", "run", *GRID)
    pushed = repository.experiments()
    assert len(pushed) == 4
    assert printed.count(": done on ") == 4
    runs = parents(repository)
    assert {run.data.tags["dvc.exp_name"] for run in runs} == set(pushed)
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert {run.data.params["lr"] for run in runs} == {"0.01", "0.02"}
    artifacts = MlflowClient(repository.store).list_artifacts(runs[0].info.run_id)
    assert "metrics.json" in {artifact.path for artifact in artifacts}
    assert "# new" in repository.type(f"git show {pushed[min(pushed)]}:train.py")
    n_logs = len(logs(cluster))
    repository.run("retrace", "cluster", "run", *GRID)
    repository.type("retrace cluster run -S 'lr=0.01,0.02' -S seed=0,1")
    assert len(logs(cluster)) == n_logs
    assert repository.experiments() == pushed
    assert not list(cluster.folder.glob("*/cluster/*/tasks/*/"))


def test_fresh_clone_runs_nothing(repository: Repository, tmp_path: Path) -> None:
    repository.run("retrace", "cluster", "run", "-S", "lr=0.5", "--name", "half")
    clone = tmp_path / "clone"
    subprocess.run(["git", "clone", "--quiet", repository.origin, clone], check=True)
    tree = Tree(clone, tmp_path / "other")
    tree.type("git config user.name ben && git config user.email ben@localhost")
    assert "Running stage" not in tree.run("dvc", "exp", "run", "--pull", "-S", "lr=0.5")
    assert "half" in tree.type("dvc exp pull origin half; dvc exp list --name-only")


def test_gpus_are_shared_out(repository: Repository) -> None:
    words = ("-S", "lr=1,2", "-S", "wait_s=8", "--gpus", "1", "--cpus", "0", "--name", "gpu")
    repository.run("retrace", "cluster", "run", *words)
    outputs = [repository.output(commit) for commit in repository.experiments().values()]
    assert sorted(output["gpus"] for output in outputs) == ["0", "1"]
    repository.run("retrace", "cluster", "run", "--name", "none")
    output = repository.output(repository.experiments()["none"])
    assert output["gpus"] == ""
    assert output["threads"] == os.environ.get("OMP_NUM_THREADS")


def test_failed_experiment_is_named(repository: Repository) -> None:
    words = ("-S", "lr=0.3,x", "--name", "some")
    printed = repository.run("retrace", "cluster", "run", *words, code=1)
    assert set(repository.experiments()) == {"some-1"}
    assert "some-2 failed: " in printed
    assert "ValueError" in (repository.path / ".retrace/cluster/some-2.log").read_text()


def test_other_experiment_keeps_its_name(repository: Repository) -> None:
    repository.run("retrace", "cluster", "run", "-S", "lr=0.7", "--name", "mine")
    before = repository.experiments()
    printed = repository.run("retrace", "cluster", "run", "-S", "lr=0.8", "--name", "mine", code=1)
    assert "dvc exp remove" in printed
    assert repository.experiments() == before


def test_interrupt_ends_experiments(cluster: Cluster, repository: Repository) -> None:
    with running(repository, "-S", "wait_s=300") as process:
        until(lambda: training(cluster.head) + training(cluster.second))
        process.send_signal(signal.SIGINT)
        printed, _ = process.communicate(timeout=200)
        assert process.returncode == 130, printed
        assert not training(cluster.head) + training(cluster.second)
    assert not repository.experiments()


def test_detached_experiment_goes_on(cluster: Cluster, repository: Repository) -> None:
    words = ("retrace", "cluster", "run", "-S", "wait_s=10", "--name", "later")
    printed = repository.run(*words, "--detach")
    assert "retrace cluster run -S wait_s=10 --name later" in printed
    assert not repository.experiments()
    assert "detached: " in cluster.head.tree.run("retrace", "cluster", "status")
    repository.run(*words)
    assert set(repository.experiments()) == {"later"}
    (run,) = parents(repository)
    assert run.data.tags["dvc.exp_name"] == "later"
    assert "detached: " not in cluster.head.tree.run("retrace", "cluster", "status")


def test_killed_driver_ends_experiments(cluster: Cluster, repository: Repository) -> None:
    words = ("-S", "lr=1,2", "-S", "wait_s=15", "--name", "two")
    with running(repository, *words) as process:
        until(lambda: training(cluster.head) and training(cluster.second))
        process.kill()
    until(lambda: not training(cluster.head) + training(cluster.second), ENDS_S)
    repository.run("retrace", "cluster", "run", *words)
    assert set(repository.experiments()) == {"two-1", "two-2"}
    assert {run.info.status for run in parents(repository)} == {"FINISHED"}


def test_raylet_killed_alone(cluster: Cluster, repository: Repository) -> None:
    with running(repository, "-S", "lr=1,2", "-S", "wait_s=20", "--name", "two") as process:
        until(lambda: training(cluster.head) and training(cluster.second))
        below = cluster.second.raylet.children(recursive=True)
        cluster.second.raylet.kill()
        _, left = psutil.wait_procs(below, timeout=ENDS_S)
        assert not left
        cluster.second.stop()
        cluster.join()
        printed, _ = process.communicate(timeout=200)
        assert process.returncode == 0, printed
    assert set(repository.experiments()) == {"two-1", "two-2"}
    assert "attempt 2" in printed


def test_killed_node_is_replaced(cluster: Cluster, repository: Repository) -> None:
    """Its experiment is begun again on the other node, and nothing is done twice."""
    words = ("-S", "lr=1,2,3", "-S", "wait_s=15", "--name", "three")
    with running(repository, *words) as process:
        until(lambda: training(cluster.head) and training(cluster.second))
        cluster.second.kill()
        began = time.monotonic()
        printed, _ = process.communicate(timeout=300)
        took_s = time.monotonic() - began
        assert process.returncode == 0, printed
    print(f"after the kill: {took_s:.0f} s")
    assert len(repository.experiments()) == 3
    assert printed.count(": done") == 3
    assert "attempt 2" in printed
    cluster.second.stop()
    cluster.join()


def test_dead_server_loses_no_run(repository: Repository) -> None:
    """The next experiment on the same machine uploads what is missing."""
    store = repository.env["MLFLOW_TRACKING_URI"] = f"http://127.0.0.1:{unused_port()}"
    repository.run("retrace", "cluster", "run", "--name", "before")
    assert set(repository.experiments()) == {"before"}
    assert repository.env.pop("MLFLOW_TRACKING_URI") == store
    both = ("-S", "lr=1,2", "-S", "wait_s=15", "--name", "after")  # one on each machine
    repository.run("retrace", "cluster", "run", *both)
    names = {run.data.tags["dvc.exp_name"] for run in parents(repository)}
    assert names == {"before", "after-1", "after-2"}


def test_lost_git_remote_fails_an_experiment(cluster: Cluster, repository: Repository) -> None:
    away = repository.origin.with_name("away.git")
    with running(repository, "-S", "wait_s=10", "--name", "one") as process:
        until(lambda: training(cluster.head) + training(cluster.second))
        repository.origin.rename(away)
        printed, _ = process.communicate(timeout=200)
        assert process.returncode == 1, printed
    assert "one failed: " in printed
    away.rename(repository.origin)
    assert not repository.experiments()
    repository.run("retrace", "cluster", "run", "-S", "wait_s=10", "--name", "one")
    assert set(repository.experiments()) == {"one"}


def test_killed_head_ends_the_cluster(cluster: Cluster, repository: Repository) -> None:
    words = ("-S", "lr=1,2,3", "-S", "wait_s=10", "--name", "three")
    with running(repository, *words) as process:
        until(repository.experiments, 200)
        cluster.head.kill()
        printed, _ = process.communicate(timeout=200)
        assert process.returncode == 2, printed
    pushed = repository.experiments()
    until(lambda: not training(cluster.second), ENDS_S)
    cluster.stop()
    cluster.start()
    repository.run("retrace", "cluster", "run", *words)
    assert set(repository.experiments()) == {"three-1", "three-2", "three-3"}
    assert pushed.items() <= repository.experiments().items()
