"""Measure the pipeline's time and memory overhead on MNIST, in a temporary clone in .retrace/.

Alternatives are measured in turns; nothing else should run. The five stages are compared with
bare.py, which does the same work in one process, without DVC, MLflow and hashing files.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median

import table
import tracking
import yaml
from bench import demand_quiet
from clones import Clone, Repository
from table import Figure

from lab import params, paths
from retrace import errors
from retrace.errors import RetraceError

GIB = 1 << 20  # in KiB, the unit of ru_maxrss
# It imports little, because a process starts with the peak memory of its parent.
PEAK = """
import resource, subprocess, sys
subprocess.run([sys.executable, *sys.argv[1:]], check=True, stdout=subprocess.DEVNULL)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""
SHORT = {"epochs: 5": "epochs: 1"}  # less of the work that both sides do
LONG = {"epochs: 5": "epochs: 20"}  # enough epochs to log


def median_times(
    n: int, first: Callable[[], float], second: Callable[[], float]
) -> tuple[float, float]:
    """Return the median seconds of each call, measured in turns."""
    taken: tuple[list[float], list[float]] = [], []
    for _ in range(n):
        for call, seconds in zip((first, second), taken, strict=True):
            demand_quiet()
            seconds.append(call())
    return median(taken[0]), median(taken[1])


def edited(clone: Clone, changes: dict[str, str]) -> Clone:
    """Edit lines of the clone's params.yaml, commit, and return the clone."""
    text = (clone.path / paths.PARAMS).read_text(encoding="utf-8")
    for old, new in changes.items():
        if text.count(f"\n{old}") != 1:
            raise RetraceError(
                f"{paths.PARAMS}: has not one line {old!r}; adapt benchmarks/overhead.py"
            )
        text = text.replace(f"\n{old}", f"\n{new}")
    (clone.path / paths.PARAMS).write_text(text, encoding="utf-8")
    clone.commit()
    return clone


def copying(folder: Path) -> Repository:
    """Return a repository in which each of five stages copies a file."""
    repository = Repository(folder)
    repository.run("dvc", "init", "--quiet")
    (folder / "file0").write_text("0", encoding="utf-8")
    stages = {
        f"copy{i}": {
            "cmd": f"cp file{i} file{i + 1}",
            "deps": [f"file{i}"],
            "outs": [f"file{i + 1}"],
        }
        for i in range(len(params.STAGES))
    }
    (folder / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}), encoding="utf-8")
    repository.commit()
    return repository


def nothing(folder: Path, n: int) -> Iterator[Figure]:
    """Measure `dvc repro` when all is up to date: here, and where five stages copy a file."""
    clone = edited(Clone(folder / "nothing", "mnist"), SHORT)
    copies = copying(folder / "copies")
    for repository in (clone, clone, copies, copies):
        repository.run("dvc", "repro", "--quiet")
    ours, least = median_times(
        n,
        lambda: clone.seconds("dvc", "repro", "--quiet"),
        lambda: copies.seconds("dvc", "repro", "--quiet"),
    )
    yield Figure("`dvc repro` with nothing to do", ours, "s", n)
    yield Figure("the same, of five stages that copy a file", least, "s", n)
    yield Figure("`dvc repro` with nothing to do, minus those", ours - least, "s", n, target=0.25)


def wrapped(folder: Path, n: int) -> Iterator[Figure]:
    """Measure what `retrace dvc` adds to DVC: with nothing to do, and to a stage of one copy.

    The last stage of a pipeline waits until MLflow has everything.
    """
    copies = copying(folder / "wrapped")
    one = ("--force", "--single-item")
    cases = {
        "nothing to do": ((), 0.3),
        "a stage": ((*one, "copy0"), 0.3),
        "the last stage": ((*one, f"copy{len(params.STAGES) - 1}"), None),
    }
    copies.run("retrace", "dvc", "repro", "--quiet")
    for name, (words, target) in cases.items():
        repro = ("dvc", "repro", "--quiet", *words)
        ours, least = median_times(
            n,
            lambda repro=repro: copies.seconds("retrace", *repro),
            lambda repro=repro: copies.seconds(*repro),
        )
        yield Figure(f"`retrace dvc repro`, {name}", ours, "s", n)
        yield Figure(
            f"`retrace dvc repro`, minus `dvc repro`: {name}", ours - least, "s", n, target
        )


def stages(folder: Path, n: int) -> Iterator[Figure]:
    """Measure all stages, run by DVC and by one script."""
    clone = edited(Clone(folder / "stages", "mnist"), SHORT)
    clone.run("dvc", "repro", "--quiet")
    whole, bare = median_times(
        n,
        lambda: clone.seconds("dvc", "repro", "--quiet", "--force"),
        lambda: clone.seconds("python", "benchmarks/bare.py"),
    )
    yield Figure("the five stages, one epoch", whole, "s", n)
    yield Figure("one bare script", bare, "s", n)
    yield Figure("the five stages, minus one bare script", whole - bare, "s", n, target=5)


def training(folder: Path, n: int) -> Iterator[Figure]:
    """Measure the tracking of one training: 20 epochs with six metrics, parameters, a model."""
    clone = edited(Clone(folder / "training", "digits"), LONG)
    clone.run("dvc", "repro", "--quiet")
    demand_quiet()
    yield from tracking.stage(clone, "train", n)


def experiment(folder: Path, n: int) -> Iterator[Figure]:
    """Measure what `dvc exp run` adds to `dvc repro`, with a short first stage, on digits.

    `--single-item` is not used: with it, `dvc repro` would skip the graph, but `dvc exp run` would
    not.
    """
    clone = Clone(folder / "experiment", "digits")
    clone.run("dvc", "repro", "--quiet")
    clone.commit()
    one = ("--quiet", "--force", "download")
    run, repro = median_times(
        n,
        lambda: clone.seconds("dvc", "exp", "run", *one),
        lambda: clone.seconds("dvc", "repro", *one),
    )
    yield Figure("a stage run by `dvc exp run`", run, "s", n)
    yield Figure("a stage run by `dvc repro`", repro, "s", n)
    yield Figure("`dvc exp run`, minus `dvc repro`", run - repro, "s", n, target=0.8)


def metric(folder: Path, n: int) -> Iterator[Figure]:
    """Measure a call that logs metrics."""
    yield from tracking.metric(folder, 1000 * n)


def memory(folder: Path, n: int) -> Iterator[Figure]:
    """Measure the peak memory of each stage's largest process."""
    clone = edited(Clone(folder / "memory", "mnist"), SHORT)
    clone.run("dvc", "repro", "--quiet")
    for name in params.STAGES:
        peaks = [
            int(clone.run("python", "-c", PEAK, f"stages/{name}.py").splitlines()[-1])
            for _ in range(n)
        ]
        yield Figure(f"peak memory of {name}", max(peaks) / GIB, "GiB", n, target=1.0)


FIGURES = {
    "nothing": (nothing, 10),
    "wrapped": (wrapped, 5),
    "stages": (stages, 5),
    "training": (training, 5),
    "experiment": (experiment, 10),
    "metric": (metric, 20),
    "memory": (memory, 2),
}


if __name__ == "__main__":
    errors.run(lambda: table.measure(__doc__ or "", FIGURES))
