"""Compare the training speed of retrace with the tutorials' own code: `make bench`.

Run both sides in turns, A B A B, each in its own process, in temporary clones of the working tree
under .retrace/, which have a recipe's parameters and data. *Same recipe* compares the training
loops: the same network, samples, batches and optimizer. *Same accuracy* compares the time in which
retrace reaches an accuracy with the tutorial's complete training, extrapolated from the speed of
some of its steps. Nothing is measured while something else runs. `--write` writes the table to
docs/speed.md, all numbers to benchmarks/bench.json and the figure to docs/.
"""

import json
import platform
import re
import sys
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, Literal

import psutil
from clones import Clone
from side import Measurement
from table import head, line, place, replace

from lab import recipes
from retrace import errors
from retrace.errors import RetraceError
from retrace.pipeline import git

BUSY = 20.0  # percent of one core that other processes may use
UPLOADS_S = 30.0  # for background uploaders to end, before a measurement
PAGE = Path("docs/speed.md")
RECORD = Path("benchmarks/bench.json")
PICTURE = Path("docs/bench.png")
BEGIN, END = "<!-- bench -->\n", "<!-- /bench -->"
TOP = (
    "on two CPU cores",
    "compared",
    "tutorial",
    "retrace",
    "ratio (min..max over the pairs)",
    "target",
    "n",
)

Kind = Literal["same recipe", "same accuracy"]
SAME_RECIPE: Kind = "same recipe"
SAME_ACCURACY: Kind = "same accuracy"


@dataclass(frozen=True)
class Row:
    """A table row: side.py's arguments for each side, and the target ratios."""

    name: str
    kind: Kind
    recipe: str
    tutorial: str
    taught: str
    ours: str
    target: float
    stretch: float
    n: int = 5
    changes: dict[str, Any] = field(default_factory=dict)  # of the recipe
    # The tutorial's epochs, if its time is extrapolated from a part of its training; else 0.
    epochs: int = 0
    reaches: float = 0.0  # test accuracy, below which our time does not count


@dataclass(frozen=True)
class Measured:
    """A row's measurements: seconds or samples per second of each side, one value per turn."""

    unit: Literal["s", "samples/s"]
    taught: list[float]
    ours: list[float]
    accuracies: list[float]  # of retrace, 0..1, if one has to be reached
    where: str = ""  # processor, cores, commit

    @property
    def ratios(self) -> list[float]:
        """For each pair, how many times as fast as the tutorial retrace was."""
        pairs = zip(self.taught, self.ours, strict=True)
        return [
            ours / taught if self.unit == "samples/s" else taught / ours for taught, ours in pairs
        ]

    @property
    def ratio(self) -> float:
        """The ratio of the medians."""
        taught, ours = median(self.taught), median(self.ours)
        return ours / taught if self.unit == "samples/s" else taught / ours

    def verdict(self, row: Row) -> str:
        """Whether retrace reaches the target, and the accuracy that it missed."""
        if any(accuracy < row.reaches for accuracy in self.accuracies):
            return f"MISSED: {100 * min(self.accuracies):.2f} %"
        return (
            "stretch"
            if self.ratio >= row.stretch
            else "met"
            if self.ratio >= row.target
            else "MISSED"
        )


# Few images: the tutorial's side takes minutes.
FEW = {"epochs": 10, "pretrained": "none", "class_shares": [0.02] * 10}
# fmt: off
ROWS = (
    Row("MNIST CNN, training", SAME_RECIPE, "mnist_tutorial", "mnist", "steps 300", "steps 600",
        1.8, 2.2),
    Row("MNIST to 99.0 %", SAME_ACCURACY, "mnist_fast", "mnist", "steps 300", "loop 1", 35, 60,
        epochs=20, reaches=0.99),
    Row("circles, 500 epochs", SAME_RECIPE, "circles_relu", "circles", "epochs 500", "loop 1",
        0.8, 2),
    Row("cifar_v3, training", SAME_RECIPE, "cifar10_v3", "cifar_v3", "steps 100", "steps 200",
        2, 2.3),
    Row("cifar_v3 to 88 %", SAME_ACCURACY, "cifar10_v3_short", "cifar_v3", "steps 100", "loop 1",
        35, 60, n=1, epochs=150, reaches=0.88),
    Row("cifar_v3's 88 % by another network", SAME_ACCURACY, "cifar10_fast", "cifar_v3",
        "steps 100", "loop 1", 35, 60, n=3, epochs=150, reaches=0.88),
    Row("cifar_simple, training", SAME_RECIPE, "cifar10_simple", "cifar_simple",
        "steps 150", "steps 300", 2, 3),
    Row("Fashion-MNIST softmax, 10 epochs", SAME_RECIPE, "fashion_softmax", "fashion_softmax",
        "epochs 1", "loop 1", 20, 30, n=3, epochs=10),
    Row("VGG16 with a frozen backbone, 10 epochs", SAME_RECIPE, "cifar10_vgg16", "vgg16",
        "steps 4", "all 1", 15, 25, n=1, changes=FEW, epochs=10),
    Row("the test of 10,000 images", SAME_RECIPE, "mnist_tutorial", "mnist",
        "tests 2", "tests 5", 5, 10),
)
# fmt: on


def prepared(folder: Path, row: Row) -> Clone:
    """Return a clone with the parameters of the row's recipe, and its data."""
    values = recipes.load(row.recipe).values | row.changes
    clone = Clone(folder / row.recipe, values["dataset"])
    settings = [f"--set-param={key}={value}" for key, value in recipes.changes(values).items()]
    clone.run("dvc", "exp", "run", "--quiet", *settings, "preprocess")
    return clone


def turn(clone: Clone, which: str, row: Row, seed: int) -> Measurement:
    """Measure one side once. Raises RetraceError if other processes use the CPU."""
    demand_quiet()
    what = row.ours if which == "ours" else row.taught
    output = clone.run(
        "python", "benchmarks/side.py", which, row.tutorial, *what.split(), str(seed)
    )
    return json.loads(output.splitlines()[-1])


def demand_quiet() -> None:
    """Wait for the end of our own uploads. Raises RetraceError if the CPU is still in use then."""
    deadline = time.monotonic() + UPLOADS_S
    while (busy := psutil.cpu_percent(1.0) * (psutil.cpu_count() or 1)) > BUSY:
        if time.monotonic() > deadline:
            limit = f"more than {BUSY:.0f} %"
            raise RetraceError(
                f"other processes use {busy:.0f} % of a core, {limit}; stop them first"
            )


def measure(clone: Clone, row: Row, n: int) -> Measured:
    """Measure both sides in `n` turns."""
    sides: dict[str, list[Measurement]] = {"taught": [], "ours": []}
    for seed in range(n):
        for which, measurements in sides.items():
            measurements.append(turn(clone, which, row, seed))
    by_speed = row.ours.startswith(("steps", "tests"))
    return Measured(
        unit="samples/s" if by_speed else "s",
        taught=[figure(measurement, row, by_speed=by_speed) for measurement in sides["taught"]],
        ours=[
            measurement["samples"] / measurement["seconds"] if by_speed else measurement["seconds"]
            for measurement in sides["ours"]
        ],
        accuracies=[measurement["accuracy"] for measurement in sides["ours"] if row.reaches],
        where=f"{processor()}, {psutil.cpu_count()} cores, at {commit()}",
    )


def figure(measurement: Measurement, row: Row, *, by_speed: bool) -> float:
    """Return the tutorial's speed, or its time for all its epochs."""
    if by_speed:
        return measurement["samples"] / measurement["seconds"]
    return (
        measurement["seconds"] * row.epochs * measurement["of"] / measurement["samples"]
        if row.epochs
        else measurement["seconds"]
    )


def table(measured: dict[str, Measured]) -> Iterator[str]:
    """Yield the lines of the Markdown table."""
    yield line(*TOP)
    yield line(*["---"] * len(TOP))
    for row in ROWS:
        if row.name in measured:
            yield _line(row, measured[row.name])


def _line(row: Row, measured: Measured) -> str:
    taught, ours = (
        f"{median(side):,.{2 if median(side) < 10 else 0}f} {measured.unit}"
        for side in (measured.taught, measured.ours)
    )
    ratios = measured.ratios
    span = f" ({min(ratios):.1f}..{max(ratios):.1f})" if len(ratios) > 1 else ""
    aims = f"{row.target:g} ({row.stretch:g}): {measured.verdict(row)}"
    return line(
        row.name, row.kind, taught, ours, f"{measured.ratio:.1f}{span}", aims, str(len(ratios))
    )


def draw(measured: dict[str, Measured]) -> None:
    """Draw the ratios as bars, with their targets."""
    from matplotlib.figure import Figure

    from lab.report.figures import style

    rows = [row for row in reversed(ROWS) if row.name in measured]
    figure = Figure(figsize=(8.5, 0.45 * len(rows) + 1.2), layout="constrained")
    axes = figure.subplots()
    for height, row in enumerate(rows):
        ratio = measured[row.name].ratio
        axes.barh(height, ratio - 1, 0.6, left=1, color=style.COLORS[row.kind == SAME_ACCURACY])
        axes.plot([row.target] * 2, [height - 0.4, height + 0.4], color=style.DARK_COLORS[0], lw=2)
        # The number is beside the bar, but does not overlap the target's mark.
        beside = max(ratio, row.target if ratio < row.target < 1.4 * ratio else 1)
        axes.text(beside * 1.07, height, f"{ratio:.1f}", va="center")
    least = min(1.0, *(0.8 * measured[row.name].ratio for row in rows))
    axes.axvline(1, color=style.DARK_COLORS[0], lw=0.8)
    axes.set(
        xscale="log",
        xlim=(least, 2 * max(measured[row.name].ratio for row in rows)),
        yticks=range(len(rows)),
    )
    axes.set_yticklabels([row.name for row in rows])
    axes.set_xticks([1, 2, 5, 10, 20, 50], labels=["1", "2", "5", "10", "20", "50"])
    axes.set_xlabel(
        "times as fast as the tutorial, with the same recipe (blue) or\n"
        "to the same accuracy (orange); marks: targets"
    )
    style.title(figure, "The tutorials' trainings on two CPU cores")
    style.save(figure, PICTURE)


def write(measured: dict[str, Measured]) -> None:
    """Write the measurements to the page, the record and the figure."""
    rows = {
        row.name: asdict(measured[row.name]) | {"ratio": measured[row.name].ratio}
        for row in ROWS
        if row.name in measured
    }
    RECORD.write_text(json.dumps({"rows": rows}, indent=1) + "\n", encoding="utf-8")
    replace(PAGE, BEGIN, END, table(measured))
    draw(measured)


def recorded() -> dict[str, Measured]:
    """Return the recorded measurements of rows that still exist."""
    if not RECORD.exists():
        return {}
    rows = json.loads(RECORD.read_text(encoding="utf-8"))["rows"]
    names = {row.name for row in ROWS}
    return {
        name: Measured(**{key: value for key, value in fields.items() if key != "ratio"})
        for name, fields in rows.items()
        if name in names
    }


def commit() -> str:
    """Return the last commit, marked if the working tree differs."""
    return git.run("describe", "--always", "--dirty").decode().strip()


def processor() -> str:
    model = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text(encoding="utf-8"))
    return model[1] if model else platform.processor()


def parsed() -> Namespace:
    parser = ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--only", nargs="+", metavar="WORD", help="only rows whose names contain one of these words"
    )
    parser.add_argument("--n", type=int, help="number of pairs of turns (default: the row's own)")
    parser.add_argument(
        "--write", action="store_true", help=f"also write {PAGE}, the record and the figure"
    )
    return parser.parse_args()


def main() -> None:
    args = parsed()
    rows = [row for row in ROWS if not args.only or any(word in row.name for word in args.only)]
    if not rows:
        names = ", ".join(row.name for row in ROWS)
        raise RetraceError(
            f"--only {' '.join(args.only)}: no row has these words; the rows are {names}"
        )
    measured = recorded()
    head(*TOP)
    with place() as folder:
        for row in rows:
            measured[row.name] = measure(prepared(folder, row), row, args.n or row.n)
            print(_line(row, measured[row.name]), flush=True)
            if args.write:
                write(measured)
    sys.exit(any("MISSED" in measured[row.name].verdict(row) for row in rows))


if __name__ == "__main__":
    errors.run(main)
