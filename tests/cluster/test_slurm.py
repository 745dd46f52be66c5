"""`retrace cluster slurm`: the script, and its jobs on a real Slurm of two nodes."""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster.conftest import Repository
from cluster.lab import Lab
from cluster.slurm_cluster import NotAvailableError, SlurmCluster
from faults.servers import until
from faults.stages import find_runs
from launched import copied, prepare, results, set_params, stage_environment
from repository import ROOT, Tree

SLURM = ("retrace", "cluster", "slurm")


@pytest.fixture(scope="module")
def slurm() -> Iterator[SlurmCluster]:
    """Yield a Slurm that runs. Its sockets need a short path."""
    with tempfile.TemporaryDirectory(prefix="slurm-") as folder:
        try:
            cluster = SlurmCluster(Path(folder))
        except NotAvailableError as error:
            pytest.skip(f"Slurm cannot be downloaded: {error}")
        try:
            cluster.start()
            yield cluster
        finally:
            cluster.stop()


@pytest.fixture
def idle(slurm: SlurmCluster) -> Iterator[SlurmCluster]:
    """Yield the Slurm with two idle nodes; end the test's jobs."""
    slurm.recover()
    yield slurm
    slurm.run("scancel", "--signal=KILL", "--full", "--user", slurm.user)


@pytest.fixture
def repository(tmp_path: Path, empty_store: Path) -> Repository:
    return Repository(tmp_path, empty_store)


def job_folder(repository: Tree) -> Path:
    (script,) = repository.path.glob(".retrace/cluster/*/job.sh")
    return script.parent


@pytest.mark.slow
def test_script_has_a_job_for_each_experiment(repository: Repository) -> None:
    repository.env["MLFLOW_TRACKING_URI"] = "http://mlflow.example:5000"
    printed = repository.type(
        "retrace cluster slurm -S 'lr=0.01,0.02' --sbatch --partition=gpu --gpus=1 --time=4:00:00"
        " --comment='a b'"
    )
    folder = job_folder(repository)
    script = (folder / "job.sh").read_text()
    assert "#SBATCH --array=0-1\n" in script
    assert "#SBATCH --partition=gpu --gpus=1 --time=4:00:00 '--comment=a b'\n" in script
    assert f"sbatch {(folder / 'job.sh').relative_to(repository.path)}\n" in printed
    tasks = json.loads((folder / "tasks.json").read_text())
    for number, task in enumerate(tasks):
        values = " ".join(f"-S {value}" for value in task["overrides"])
        assert f"# {number} {task['name']} {values}\n" in script
    assert (folder / "tasks.json").stat().st_mode & 0o777 == 0o600
    subprocess.run(["bash", "-n", folder / "job.sh"], check=True)
    assert repository.type("git status --porcelain") == ""


@pytest.mark.slow
def test_submit_needs_slurm(repository: Repository) -> None:
    repository.env["MLFLOW_TRACKING_URI"] = "http://mlflow.example:5000"
    printed = repository.run(*SLURM, "--submit", code=2)
    assert "`sbatch`" in printed.splitlines()[-1]


@pytest.mark.slow
def test_file_of_runs_is_refused_for_several_machines(repository: Repository) -> None:
    printed = repository.run(*SLURM, code=2)
    assert printed.count("\n") == 1
    assert "MLFLOW_TRACKING_URI" in printed
    assert not list(repository.path.glob(".retrace/cluster/*"))


@pytest.mark.long
def test_array_ends_with_every_experiment(idle: SlurmCluster, repository: Repository) -> None:
    repository.env |= idle.env | {"PATH": f"{idle.path}:{repository.env['PATH']}"}
    repository.run(*SLURM, "-S", "lr=0.01,0.02", "-S", "seed=0,1", "--submit")
    until(lambda: not idle.jobs(), within_s=200.0, what="the end of the jobs")
    folder = job_folder(repository)
    logs = {log.name: log.read_text() for log in folder.glob("*.log")}
    tasks = json.loads((folder / "tasks.json").read_text())
    assert repository.experiments().keys() == {task["name"] for task in tasks}, logs
    assert len(logs) == 4
    # The batch script of a job has SLURM_PROCID=0, so its stages are tracked.
    runs = find_runs(repository.store, stage="train")
    assert [run.info.status for run in runs] == ["FINISHED"] * 4


@pytest.mark.long
def test_srun_trains_as_one_launcher(
    idle: SlurmCluster, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = prepare(tmp_path_factory.mktemp("digits"), processes="2", epochs="2")
    other = copied(folder, tmp_path_factory.mktemp("nodes") / "folder")
    train = (sys.executable, ROOT / "stages/train.py")
    subprocess.run(train, cwd=folder, env=stage_environment(folder), check=True)
    idle.run("srun", "--nodes=2", "--ntasks=2", *train, cwd=other, env=stage_environment(other))
    assert results(other) == results(folder)


@pytest.fixture
def lab(idle: SlurmCluster, tmp_path: Path, empty_store: Path) -> Lab:
    lab = Lab(tmp_path, empty_store, epochs=20)
    lab.env |= idle.env | {"PATH": f"{idle.path}:{lab.env['PATH']}"}
    return lab


@pytest.mark.long
def test_requeued_training_has_the_same_bytes(idle: SlurmCluster, lab: Lab) -> None:
    lab.run(*SLURM, "train", "--name", "one", "--submit")
    log = job_folder(lab) / "0.log"
    until(lambda: lab.newest() >= 20, 200, what="the first checkpoint")
    idle.run("scontrol", "requeue", idle.job())  # as Slurm does to preempt it
    until(lambda: log.read_text().count("resumed from step") == 1, 200, what="the preempted job")
    at = lab.newest() + 10
    until(lambda: lab.newest() >= at, 60, what="a checkpoint")
    began = time.monotonic()
    idle.kill_node(idle.node())
    until(lambda: log.read_text().count("resumed from step") == 2, 200, what="the lost job")
    print(f"resumed {time.monotonic() - began:.1f} s after its node was killed")
    until(lambda: not idle.jobs(), 200, what="the end of the job")
    commit = pushed(lab, "one")
    runs = find_runs(f"sqlite:///{lab.path / 'mlflow.db'}", stage="train")
    assert [run.info.status for run in runs] == ["KILLED", "KILLED", "FINISHED"]
    lab.run("dvc", "repro", "train")
    assert lab.weights(commit) == lab.weights()


@pytest.mark.long
def test_stage_below_srun_trains_on_two_nodes(idle: SlurmCluster, lab: Lab) -> None:
    set_params(lab.path, processes="2", epochs="2")
    graph = (lab.path / "dvc.yaml").read_text()
    train = "python stages/train.py"
    (lab.path / "dvc.yaml").write_text(graph.replace(train, f"srun {train}"))
    nodes = ("--nodes=2", "--ntasks-per-node=1")
    lab.run(*SLURM, "train", "--name", "two", "--submit", "--sbatch", *nodes)
    until(lambda: not idle.jobs(), 300, what="the end of the job")
    commit = pushed(lab, "two")
    (run,) = find_runs(f"sqlite:///{lab.path / 'mlflow.db'}", stage="train")
    assert run.info.status == "FINISHED"
    (lab.path / "dvc.yaml").write_text(graph)
    lab.run("dvc", "repro", "train")
    assert lab.weights(commit) == lab.weights()


def pushed(lab: Lab, name: str) -> str:
    """Return the commit of an experiment in the git remote, which is fetched."""
    lab.type("git fetch --quiet origin 'refs/exps/*:refs/exps/*'")
    listed = lab.type(f"git ls-remote origin 'refs/exps/*/{name}'").split()
    assert listed, (job_folder(lab) / "0.log").read_text()
    return listed[0]


@pytest.mark.long
def test_job_is_requeued_at_its_time_limit(idle: SlurmCluster, repository: Repository) -> None:
    repository.env |= idle.env | {"PATH": f"{idle.path}:{repository.env['PATH']}"}
    limit = ("--time=1", "--signal=B:USR1@40")
    repository.run(*SLURM, "-S", "wait_s=300", "--submit", "--sbatch", *limit)
    until(idle.jobs, what="the job")
    job = idle.job()
    until(lambda: "Restarts=1" in idle.run("scontrol", "show", "job", job), 120, what="a restart")
    until(lambda: idle.jobs() == {"0": "RUNNING"}, what="the requeued job")
    idle.run("scancel", job)
    until(lambda: not idle.jobs(), what="the end of the job")
    assert "JobState=CANCELLED" in idle.run("scontrol", "show", "job", job)
