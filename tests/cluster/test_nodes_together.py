"""`retrace cluster run --nodes`: one training on two machines of a real Ray."""

import signal
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from cluster.conftest import Cluster, Machine, Repository, running
from cluster.lab import Lab
from faults.servers import until
from faults.stages import find_runs
from launched import set_params

pytestmark = [pytest.mark.long, pytest.mark.xdist_group("ray")]
RUN = ("retrace", "cluster", "run")
# A stage that waits on machine 0, and does something else on the other one.
MEETING = """\
import os, socket, time
if os.environ["RETRACE_NODE"] == "1":
    {}
host, _, port = os.environ["RETRACE_RENDEZVOUS"].rpartition(":")
server = socket.create_server((host, int(port)))
time.sleep(600)
"""
TWO = ("--nodes", "2", "--stage", "train")


def make_lab(cluster: Cluster, folder: Path, store: Path, epochs: int) -> Lab:
    lab = Lab(folder, store, epochs)
    set_params(lab.path, processes="2")
    lab.commit("two processes")
    lab.type("git push --quiet origin HEAD")
    lab.env |= cluster.env
    return lab


def training(machine: Machine) -> list[int]:
    return [process.pid for process in machine.processes("stages/train.py")]


def pushed(lab: Lab) -> str:
    """Return the commit of the only experiment in the git remote, which is fetched."""
    lab.type("git fetch --quiet origin 'refs/exps/*:refs/exps/*'")
    (line,) = lab.type("git ls-remote origin 'refs/exps/*'").splitlines()
    return line.split()[0]


def test_two_machines_train_as_one(cluster: Cluster, tmp_path: Path, empty_store: Path) -> None:
    lab = make_lab(cluster, tmp_path, empty_store, epochs=2)
    printed = lab.run(*RUN, "--name", "two", "-S", "seed=7", *TWO)
    assert ", " in printed.split(": running on ")[-1].splitlines()[0]
    runs = find_runs(f"sqlite:///{lab.path / 'mlflow.db'}")
    stages = [run.data.tags["retrace.stage"] for run in runs if "retrace.stage" in run.data.tags]
    assert sorted(stages) == sorted(set(stages))
    assert "train" in stages
    commit = pushed(lab)
    lab.run("dvc", "exp", "run", "-S", "seed=7", "train")
    assert lab.weights(commit) == lab.weights()
    assert not list(cluster.folder.glob("*/cluster/*/tasks/*/"))


@pytest.mark.parametrize("part", ["run_task", "run_node"])
def test_training_outlives_a_machine(
    part: str, cluster: Cluster, tmp_path: Path, empty_store: Path
) -> None:
    """What runs on the first machine dies, or on the other one; on the second, the node dies."""
    lab = make_lab(cluster, tmp_path, empty_store, epochs=30)
    with running(lab, "--name", "two", *TWO, "train") as process:
        until(lambda: lab.newest() >= 20, 300, what="a checkpoint")
        machines = (cluster.head, cluster.second)
        assert all(training(each) for each in machines)
        (lost,) = (each for each in machines if each.processes(f"ray::{part}"))
        at = lab.newest()
        began = time.monotonic()
        if lost is cluster.second:
            lost.kill()
            lost.stop()
            cluster.join()
        else:  # the command runs on this machine too
            kill(lost, part)
        until(lambda: lab.newest() > at + 20, 300, what="a later checkpoint")
        print(f"{part} on {lost.nodes}: trains again after {time.monotonic() - began:.0f} s")
        printed, _ = process.communicate(timeout=300)
        assert process.returncode == 0, printed
    commit = pushed(lab)
    lab.run("dvc", "repro", "train")
    assert lab.weights(commit) == lab.weights()


def kill(machine: Machine, part: str) -> None:
    """Kill a worker of Ray and all that it has started."""
    for worker in machine.processes(f"ray::{part}"):
        for each in [*worker.children(recursive=True), worker]:
            with suppress(psutil.NoSuchProcess):
                each.kill()


def test_cached_stage_needs_no_other_machine(repository: Repository) -> None:
    repository.run("dvc", "exp", "run")
    repository.run("dvc", "push", "--quiet", "--run-cache")
    repository.run(*RUN, "--name", "cached", *TWO)
    assert set(repository.experiments()) == {"cached"}


def test_failure_elsewhere_is_shown(repository: Repository) -> None:
    """On machine 1 the stage fails, while machine 0 waits for it."""
    (repository.path / "train.py").write_text(MEETING.format("raise SystemExit('no device')"))
    repository.run(*RUN, "--name", "bad", *TWO, code=1)
    log = (repository.path / ".retrace/cluster/bad.log").read_text()
    assert "machine 1 of 2" in log
    assert "no device" in log
    assert not repository.experiments()


def test_interrupt_ends_all_machines(cluster: Cluster, repository: Repository) -> None:
    (repository.path / "train.py").write_text(MEETING.format("time.sleep(600)"))
    machines = (cluster.head, cluster.second)
    with running(repository, *TWO) as process:
        until(lambda: all(each.processes("python train.py") for each in machines), 120)
        process.send_signal(signal.SIGINT)
        printed, _ = process.communicate(timeout=200)
        assert process.returncode == 130, printed
    assert not any(each.processes("train.py") for each in machines)
    assert not list(cluster.folder.glob("*/cluster/*/tasks/*/"))


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("--nodes", "3", "--stage", "train"), ("--nodes is 3", "1 to 2")),
        (("--nodes", "0"), ("--nodes is 0",)),
        (("--nodes", "2"), ("--stage", "prepare, train")),
        (("--nodes", "2", "--stage", "fit"), ("'fit'", "prepare, train")),
        (("--stage", "train"), ("--nodes",)),
        ((*TWO, "--gpus", "1"), ("--nodes is 2", "1 to 1")),
        ((*TWO, "--cpus", "0"), ("--cpus is 0",)),
    ],
)
def test_what_cannot_start(
    repository: Repository, words: tuple[str, ...], named: tuple[str, ...]
) -> None:
    printed = repository.run(*RUN, *words, code=2)
    assert printed.count("\n") == 1
    assert all(word in printed for word in named)
