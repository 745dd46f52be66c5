"""`retrace cluster slurm`: the script, and its jobs on a real Slurm of two nodes."""

import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster.conftest import Repository
from cluster.slurm_cluster import NotAvailableError, SlurmCluster
from faults.servers import until
from faults.stages import find_runs
from launched import copied, newest, prepare, results, stage_environment
from repository import ROOT, Clone, Tree

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


class Lab(Clone):
    """A clone of this repository with remotes, in which a training saves its state all the time."""

    def __init__(self, folder: Path, store: Path) -> None:
        path = folder / "repo"
        path.mkdir()
        edits = {
            "dataset: mnist": "dataset: digits",
            "epochs: 5": "epochs: 20",
            "device: auto": "device: cpu",
            "precision: auto": "precision: float32",
            "threads: 2": "threads: 1",
        }
        super().__init__(path, folder / "cache", edits)
        source = path / "src/retrace/checkpoint.py"
        text = source.read_text()
        for old, new in (("EVERY_S = 10.0", "EVERY_S = 0.1"), ("SHARE = 0.01", "SHARE = 1.0")):
            assert text.count(old) == 1
            text = text.replace(old, new)
        source.write_text(text)
        shutil.copy(store, path / "mlflow.db")
        self.type("git config user.name ann && git config user.email ann@localhost")
        self.type(f"git init --quiet --bare {folder / 'origin.git'}")
        self.type(f"git remote add origin {folder / 'origin.git'}")
        self.type(f"dvc remote add --quiet --default team {folder / 'remote'}")
        self.commit("small")
        self.type("git push --quiet origin HEAD")

    def weights(self, commit: str = "") -> str:
        """Return the hash of the weights, in dvc.lock here or of a commit."""
        lock = self.type(f"git show {commit}:dvc.lock" if commit else "cat dvc.lock")
        return lock.partition("path: models/model.safetensors")[2].split("md5: ")[1].split()[0]


@pytest.mark.long
def test_requeued_training_has_the_same_bytes(
    idle: SlurmCluster, tmp_path: Path, empty_store: Path
) -> None:
    lab = Lab(tmp_path, empty_store)
    lab.run("dvc", "repro", "train")
    expected = lab.weights()
    lab.type("git checkout --quiet dvc.lock")
    lab.env |= idle.env | {"PATH": f"{idle.path}:{lab.env['PATH']}"}
    lab.run(*SLURM, "train", "--name", "one", "--submit")
    log = job_folder(lab) / "0.log"
    until(lambda: newest(lab.path) >= 20, 200, what="the first checkpoint")
    idle.run("scontrol", "requeue", idle.job())  # as Slurm does to preempt it
    until(lambda: log.read_text().count("resumed from step") == 1, 200, what="the preempted job")
    at = newest(lab.path)
    until(lambda: newest(lab.path) > at, 60, what="a checkpoint")
    began = time.monotonic()
    idle.kill_node(idle.node())
    until(lambda: log.read_text().count("resumed from step") == 2, 200, what="the lost job")
    print(f"resumed {time.monotonic() - began:.1f} s after its node was killed")
    until(lambda: not idle.jobs(), 200, what="the end of the job")
    commits = lab.type("git ls-remote origin 'refs/exps/*/one'").split()
    assert len(commits) == 2, log.read_text()
    lab.type("git fetch --quiet origin 'refs/exps/*:refs/exps/*'")
    assert lab.weights(commits[0]) == expected


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
