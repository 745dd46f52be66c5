"""Measure a Ray cluster of two nodes on this machine: start, memory, and what an experiment costs.

An experiment with one short stage runs on the cluster and here, in turns. Nothing else should run.
"""

import json
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from statistics import median

import psutil
import table
from clones import Repository
from overhead import median_times
from table import Figure

from retrace import errors

ADDRESS = "127.0.0.1:6389"
NODE = ("--num-cpus", "1", "--num-gpus", "0")
MIB = 1 << 20
DVC_YAML = """
stages:
  fit:
    cmd: cp params.yaml model.yaml
    params: [lr]
    outs: [model.yaml]
"""


class Node:
    """A node with a cache of its own, as another machine would have."""

    def __init__(self, repository: Repository, folder: Path) -> None:
        self.repository = repository
        self.cache = folder

    def run(self, *words: str) -> str:
        return self.repository.run("retrace", "cluster", *words, RETRACE_CACHE=str(self.cache))

    def seconds(self, *words: str) -> float:
        began = time.perf_counter()
        self.run(*words)
        return time.perf_counter() - began

    @property
    def memory(self) -> float:
        """The memory of its processes in MiB, without what they share."""
        (file,) = self.cache.glob("cluster/nodes/*.json")
        ray = psutil.Process(json.loads(file.read_text())["process"]["pid"])
        return sum(each.memory_full_info().uss for each in [ray, *ray.children(True)]) / MIB


@contextmanager
def started(folder: Path) -> Iterator[tuple[Repository, list[Node], list[float]]]:
    """Yield a repository, two nodes, and the seconds in which each was up."""
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="ray-") as sockets:
        repository = tracked(folder)
        repository.env |= {
            "RAY_AUTH_TOKEN_PATH": str(folder / "token"),
            "RAY_TMPDIR": sockets,
            "RAY_ADDRESS": ADDRESS,
            "MLFLOW_TRACKING_URI": f"sqlite:///{folder / 'mlflow.db'}",
        }
        nodes = [Node(repository, folder / name) for name in ("head", "second")]
        try:
            first = nodes[0].seconds("start", "--port", "6389", *NODE)
            yield repository, nodes, [first, nodes[1].seconds("join", ADDRESS, *NODE)]
        finally:
            for node in reversed(nodes):
                node.run("stop")


def tracked(folder: Path) -> Repository:
    """Return a repository with both remotes and one stage."""
    shutil.rmtree(folder, ignore_errors=True)
    repository = Repository(folder / "repository")
    for name, text in {
        "dvc.yaml": DVC_YAML,
        "params.yaml": "lr: 0\n",
        ".gitignore": "mlflow.db*\n",
    }.items():
        (repository.path / name).write_text(text)
    for command in (
        "git config user.name ann",
        "git config user.email ann@localhost",
        "dvc init --quiet",
        f"git init --quiet --bare {folder / 'origin.git'}",
        f"git remote add origin {folder / 'origin.git'}",
        f"dvc remote add --quiet --default team {folder / 'remote'}",
    ):
        repository.run(*command.split())
    repository.commit()
    repository.run("git", "push", "--quiet", "origin", "HEAD")
    return repository


def nodes(folder: Path, n: int) -> Iterator[Figure]:
    """Measure how long two nodes take to be up, and their memory without work."""
    seconds: list[list[float]] = []
    memory: list[float] = []
    for number in range(n):
        with started(folder / f"nodes{number}") as (_, both, taken):
            seconds.append(taken)
            memory.append(sum(node.memory for node in both))
    yield Figure("first node", median(first for first, _ in seconds), "s", n)
    yield Figure("second node", median(second for _, second in seconds), "s", n)
    yield Figure("both nodes", median(map(sum, seconds)), "s", n, target=30)
    yield Figure("memory of both, idle", median(memory), "MiB", n)


def experiment(folder: Path, n: int) -> Iterator[Figure]:
    """Measure an experiment on the cluster, and the same here: run, shared and pushed."""
    values = count(1)
    with started(folder / "experiment") as (repository, _, _):
        here = "retrace dvc exp run --quiet --name here{0} -S lr={0}"
        push = "retrace share && dvc exp push --quiet origin here{0}"

        def on_cluster() -> float:
            return repository.seconds("retrace", "cluster", "run", "-S", f"lr={next(values)}")

        def locally() -> float:
            text = f"{here} && {push}".format(next(values))
            return repository.seconds("bash", "-c", text)

        on_cluster()  # fills the machine's caches
        cluster, local = median_times(n, on_cluster, locally)
    yield Figure("an experiment on the cluster", cluster, "s", n)
    yield Figure("the same here, run, shared and pushed", local, "s", n)
    yield Figure("the difference", cluster - local, "s", n)


if __name__ == "__main__":
    figures = {"nodes": (nodes, 3), "experiment": (experiment, 5)}
    errors.run(lambda: table.measure(__doc__ or "", figures))
