"""A Ray cluster of two nodes on this machine, and a small repository to run on it."""

import json
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
from faults.servers import unused_port
from repository import Tree

DVC_YAML = """\
stages:
  prepare:
    cmd: python prepare.py
    deps: [prepare.py]
    params: [seed]
    outs: [data.json]
  train:
    cmd: python train.py
    deps: [train.py, data.json]
    params: [lr, wait_s]
    outs: [model.json]
    metrics: [metrics.json: {cache: false}]
"""
PREPARE = """\
import json
json.dump([1, 2, 3], open("data.json", "w"))
"""
TRAIN = """\
import json, os, re, time
params = dict(re.findall(r"(\\w+): (\\S+)", open("params.yaml").read()))
gpus = os.environ.get("CUDA_VISIBLE_DEVICES")
threads = os.environ.get("OMP_NUM_THREADS")
time.sleep(float(params["wait_s"]))
json.dump({"w": float(params["lr"]) * 2, "gpus": gpus, "threads": threads}, open("model.json", "w"))
json.dump({"loss": float(params["lr"]) ** 2}, open("metrics.json", "w"))
"""
FILES = {
    ".gitignore": "mlflow.db*\n",
    "dvc.yaml": DVC_YAML,
    "params.yaml": "lr: 0.1\nseed: 0\nwait_s: 0\n",
    "prepare.py": PREPARE,
    "train.py": TRAIN,
}


class Repository(Tree):
    """A repository with a git remote and a DVC remote, both folders, and one commit."""

    def __init__(self, folder: Path, store: Path) -> None:
        path = folder / "repo"
        path.mkdir(parents=True)
        super().__init__(path, folder / "cache")
        self.origin = folder / "origin.git"
        self.remote = folder / "remote"
        for name, text in FILES.items():
            (path / name).write_text(text)
        self.type("git init --quiet --initial-branch main && dvc init --quiet")
        self.type("git config user.name ann && git config user.email ann@localhost")
        self.type(f"git init --quiet --bare --initial-branch main {self.origin}")
        self.type(f"git remote add origin {self.origin}")
        self.type(f"dvc remote add --quiet --default team {self.remote}")
        self.commit("start")
        self.type("git push --quiet origin main")
        self.store = f"sqlite:///{shutil.copy(store, path / 'mlflow.db')}"

    def experiments(self) -> dict[str, str]:
        """Return the commits of the experiments in the git remote, by name."""
        lines = self.type("git ls-remote origin 'refs/exps/*'").splitlines()
        return {line.rpartition("/")[2]: line.split()[0] for line in lines}

    def output(self, commit: str, path: str = "model.json") -> dict[str, Any]:
        """Return the content of a JSON output of an experiment, from DVC's remote."""
        target = self.path.parent / f"{commit}-{path}"
        self.run("dvc", "get", "--rev", commit, "--out", str(target), str(self.origin), path)
        return json.loads(target.read_text())


class Machine:
    """A node of the cluster, with a cache of its own, as another machine would have."""

    def __init__(self, env: dict[str, str], folder: Path, name: str) -> None:
        self.tree = Tree(folder, folder)
        self.tree.env |= env | {"RETRACE_CACHE": str(folder / name)}
        self.nodes = folder / name / "cluster/nodes"
        self.took_s = 0.0

    def start(self, *words: str) -> str:
        began = time.monotonic()
        printed = self.tree.run("retrace", "cluster", *words)
        self.took_s = time.monotonic() - began
        return printed

    @property
    def ray(self) -> psutil.Process:
        """The process `ray start --block`."""
        (file,) = self.nodes.glob("*.json")
        return psutil.Process(json.loads(file.read_text())["process"]["pid"])

    @property
    def raylet(self) -> psutil.Process:
        (raylet,) = (each for each in self.ray.children() if each.name() == "raylet")
        return raylet

    def processes(self, word: str = "") -> list[psutil.Process]:
        """Return the processes of this node with a word in their command lines."""
        with suppress(psutil.NoSuchProcess, ValueError):
            below = [self.ray, *self.ray.children(recursive=True)]
            return [process for process in below if word in " ".join(command(process))]
        return []

    def kill(self) -> None:
        """Kill all processes at once, as when a machine loses its power."""
        for process in self.processes():
            with suppress(psutil.NoSuchProcess):
                process.kill()

    def stop(self) -> None:
        self.tree.run("retrace", "cluster", "stop")


def command(process: psutil.Process) -> list[str]:
    with suppress(psutil.Error):
        return process.cmdline()
    return []


class Cluster:
    """Two nodes, each with one CPU; the first one has two GPUs that do not exist."""

    def __init__(self, folder: Path, sockets: Path) -> None:
        self.folder = folder
        self.token = folder / "token"
        self.address = f"127.0.0.1:{unused_port()}"
        self.env = {
            "RAY_AUTH_TOKEN_PATH": str(self.token),
            "RAY_TMPDIR": str(sockets),
            "RAY_ADDRESS": self.address,
        }
        self.head = Machine(self.env, folder, "head")
        self.second = Machine(self.env, folder, "second")

    def start(self) -> None:
        port = self.address.rpartition(":")[2]
        self.head.start("start", "--port", port, "--num-cpus", "1", "--num-gpus", "2")
        self.join()

    def join(self) -> None:
        self.second.start("join", self.address, "--num-cpus", "1", "--num-gpus", "0")

    def stop(self) -> None:
        for machine in (self.second, self.head):
            machine.stop()


def running(tree: Tree, *words: str) -> "subprocess.Popen[str]":
    """Start `retrace cluster run` in the background."""
    return subprocess.Popen(
        ["retrace", "cluster", "run", *words],
        cwd=tree.path,
        env=tree.env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="ray-") as sockets:
        cluster = Cluster(tmp_path_factory.mktemp("cluster"), Path(sockets))
        try:
            cluster.start()
            yield cluster
        finally:
            cluster.stop()


@pytest.fixture
def repository(cluster: Cluster, tmp_path: Path, empty_store: Path) -> Repository:
    repository = Repository(tmp_path, empty_store)
    repository.env |= cluster.env
    return repository
