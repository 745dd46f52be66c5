"""Measure trainings on one GPU, in a few minutes: `python benchmarks/gpu.py --write`.

Train each recipe in one process. The first training is a warm-up: kernels are chosen, memory is
allocated. The others measure the time and the accuracy, in turns with trainings that use the
fastest kernels; their weights have to be bit-identical, also to those of a second process. Data in
this repository's DVC cache is reused. `--write` writes the table to docs/gpu.md and all numbers to
benchmarks/gpu.json.
"""

import json
import sys
from argparse import ArgumentParser
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from bench import commit
from clones import Clone
from table import head, line, place, replace

from lab import recipes
from retrace import errors
from retrace.errors import RetraceError
from retrace.system import files

PAGE = Path("docs/gpu.md")
RECORD = Path("benchmarks/gpu.json")
BEGIN, END = "<!-- gpu -->\n", "<!-- /gpu -->"
TOP = (
    "on one GPU",
    "target",
    "measured",
    "test accuracy",
    "bit-identical",
    "cost of deterministic kernels",
)
TIMES = 3
COST = 0.10  # maximum, as a share of the training's time


@dataclass(frozen=True)
class Row:
    """A recipe, its target time in seconds, and the test accuracy that it has to reach."""

    name: str
    recipe: str
    target: float
    stretch: float
    reaches: float = 0.0
    changes: dict[str, Any] = field(default_factory=dict)  # of the recipe
    cold: bool = False  # measure the whole stage, from its command to its end


@dataclass(frozen=True)
class Measured:
    """The measurements of a row."""

    seconds: float
    free_s: float  # with the fastest kernels; 0 if not measured
    accuracy: float
    weights: list[str]  # SHA-256 for each training; all should be equal
    where: str  # GPU and commit
    is_recorded: bool  # whether the step was captured as a CUDA graph

    def verdict(self, row: Row) -> str:
        """Whether it reaches time and accuracy, with bit-identical weights each time."""
        wrong = len(set(self.weights)) > 1 or self.accuracy < row.reaches or self.cost > COST
        if wrong or not self.is_recorded or self.seconds > row.target:
            return "MISSED"
        return "stretch" if self.seconds <= row.stretch else "met"

    @property
    def cost(self) -> float:
        """The cost of deterministic kernels, as a share of the time without them."""
        return self.seconds / self.free_s - 1 if self.free_s else 0.0


# fmt: off
ROWS = (
    Row("MNIST to 99.0 %", "mnist_fast", 0.5, 0.1, reaches=0.99),
    Row("MNIST, the tutorial's 24,000 steps", "mnist_tutorial", 3, 1.6),
    Row("cifar_v3 to 88 %", "cifar10_v3_short", 2, 1.0, reaches=0.88),
    Row("cifar_v3 to 91 %", "cifar10_v3_fast", 6, 4, reaches=0.91, changes={"epochs": 45}),
    Row("CIFAR-10 to 94 %", "cifar10_airbench", 3, 1.3, reaches=0.94),
    Row("the train stage to 94 %, cold", "cifar10_airbench", 12, 8, reaches=0.94, cold=True),
)
# fmt: on


def prepared(folder: Path, row: Row) -> Clone:
    """Return a clone with the parameters of the row's recipe, and its data."""
    values = recipes.load(row.recipe).values | row.changes
    clone = Clone(folder / f"{ROWS.index(row)}", values["dataset"])
    clone.run("dvc", "cache", "dir", "--local", str(files.root() / ".dvc" / "cache"))
    settings = [f"--set-param={key}={value}" for key, value in recipes.changes(values).items()]
    clone.run("dvc", "exp", "run", "--quiet", *settings, "preprocess")
    return clone


def measure(clone: Clone, row: Row) -> Measured:
    """Measure one row."""
    from lab.training.cuda_graph import NOT_CAPTURED

    side = ("python", "benchmarks/side.py", "ours", "-")
    output = clone.run(*side, "again", str(TIMES), "0")
    again = json.loads(output.splitlines()[-1])
    other = json.loads(clone.run(*side, "loop", "1", "0").splitlines()[-1])
    seconds = again["seconds"]
    free_s = again["free_s"]
    if row.cold:
        stage = ("dvc", "repro", "--quiet", "--force", "--single-item", "train")
        seconds = clone.seconds(*stage)
        free_s = 0.0
    weights = [*again["weights"], other["weights"]]
    where = f"{again['device']}, at {commit()}"
    is_recorded = NOT_CAPTURED not in output
    return Measured(seconds, free_s, again["accuracy"], weights, where, is_recorded)


def table(measured: dict[str, Measured]) -> Iterator[str]:
    """Yield the lines of the Markdown table: all rows, measured or not."""
    yield line(*TOP)
    yield line(*["---"] * len(TOP))
    for row in ROWS:
        yield _line(row, measured.get(row.name))


def _line(row: Row, measured: Measured | None) -> str:
    target = f"{row.target:g} s ({row.stretch:g} s)"
    if measured is None:
        return line(row.name, target, "not measured", "", "", "")
    same = f"{'yes' if len(set(measured.weights)) == 1 else 'NO'}, n = {len(measured.weights)}"
    cost = f"{measured.cost:.1%}" if measured.free_s else ""
    plain = "" if measured.is_recorded else ", without CUDA graph"
    return line(
        row.name,
        target,
        f"{measured.seconds:.2f} s{plain}, {measured.verdict(row)}",
        f"{measured.accuracy:.2%}",
        same,
        cost,
    )


def write(measured: dict[str, Measured]) -> None:
    """Write the measurements to the page and the record."""
    RECORD.write_text(
        json.dumps({name: asdict(each) for name, each in measured.items()}, indent=1) + "\n",
        encoding="utf-8",
    )
    replace(PAGE, BEGIN, END, table(measured))


def recorded() -> dict[str, Measured]:
    """Return the recorded measurements of rows that still exist."""
    if not RECORD.exists():
        return {}
    rows = json.loads(RECORD.read_text(encoding="utf-8"))
    return {row.name: Measured(**rows[row.name]) for row in ROWS if row.name in rows}


def main() -> None:
    import torch

    parser = ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--only", nargs="+", metavar="WORD", help="only rows whose names contain one of these words"
    )
    parser.add_argument("--write", action="store_true", help=f"also write {PAGE} and the record")
    args = parser.parse_args()
    rows = [row for row in ROWS if not args.only or any(word in row.name for word in args.only)]
    if not rows:
        names = ", ".join(row.name for row in ROWS)
        raise RetraceError(
            f"--only {' '.join(args.only)}: no row has these words; the rows are {names}"
        )
    if not torch.cuda.is_available():
        raise RetraceError(
            "torch sees no GPU here, so nothing is measured; run this on a machine with a GPU"
        )
    measured = recorded()
    head(*TOP)
    with place() as folder:
        for row in rows:
            measured[row.name] = measure(prepared(folder, row), row)
            print(_line(row, measured[row.name]), flush=True)
            if args.write:
                write(measured)
    sys.exit(any(measured[row.name].verdict(row) == "MISSED" for row in rows))


if __name__ == "__main__":
    errors.run(main)
