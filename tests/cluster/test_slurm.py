"""`retrace cluster slurm`: the script, and its jobs on a real Slurm of two nodes."""

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster.conftest import Repository
from cluster.slurm_cluster import NotAvailableError, SlurmCluster
from faults.servers import until
from launched import copied, prepare, results, stage_environment
from repository import ROOT

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


def job_folder(repository: Repository) -> Path:
    (script,) = repository.path.glob(".retrace/cluster/*/job.sh")
    return script.parent


@pytest.mark.slow
def test_script_has_a_job_for_each_experiment(repository: Repository) -> None:
    repository.env["MLFLOW_TRACKING_URI"] = "http://mlflow.example:5000"
    grid = ("-S", "lr=0.01,0.02", "-S", "seed=0,1")
    printed = repository.run(*SLURM, *grid, "--sbatch", "--partition=long", "--comment=a b")
    folder = job_folder(repository)
    script = (folder / "job.sh").read_text()
    assert "#SBATCH --array=0-3\n" in script
    assert "#SBATCH --partition=long '--comment=a b'\n" in script
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
