"""How fast the tutorials' trainings are here, and how fast as the tutorials write them: `make bench`.

Two sides in turns, A B A B, each in a process of its own, in throw-away clones of the working tree under .retrace/ that
have a recipe's parameters and data. *Same recipe* compares engines: the same network, samples, batches and optimizer.
*Same accuracy* compares our time to an accuracy with the tutorial's whole training, by the speed of some of its steps.
Nothing is measured while something else runs. `--write` puts the table into docs/speed.md, all numbers into
benchmarks/bench.json and the figure into docs/.
"""

import json
import platform
import re
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, Literal

import psutil
from clones import Clone
from side import Told
from table import head, line, place, replace

from lab import recipes
from retrace import errors
from retrace.errors import RetraceError
from retrace.pipeline import git

BUSY = 20.0  # per cent of one core, taken by others
PAGE = Path("docs/speed.md")
RECORD, PICTURE = Path("benchmarks/bench.json"), Path("docs/bench.png")
BEGIN, END = "<!-- bench -->\n", "<!-- /bench -->"
TOP = (
    "on two CPU cores",
    "compared",
    "tutorial",
    "retrace",
    "ratio (least..most of a pair)",
    "target",
    "n",
)

Kind = Literal["same recipe", "same accuracy"]
SAME_RECIPE: Kind = "same recipe"
SAME_ACCURACY: Kind = "same accuracy"


@dataclass(frozen=True)
class Row:
    """A figure: what each side does, as side.py is told it, and how many times as fast as the tutorial to be."""

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
    epochs: int = 0  # of the tutorial, if its time is that of so many at the speed of the steps that are timed
    reaches: float = 0.0  # test accuracy, below which ours does not count


@dataclass(frozen=True)
class Measured:
    """Of a row: the seconds of a whole, or samples a second, of either side in each turn."""

    unit: Literal["s", "samples/s"]
    taught: list[float]
    ours: list[float]
    accuracies: list[float]  # of ours, where one has to be reached
    divergences: list[
        tuple[float, float]
    ]  # of the tutorial's map and ours, where that is what is made
    where: str = ""  # processor, cores, commit

    @property
    def ratios(self) -> list[float]:
        """Of each pair, how many times as fast ours was."""
        pairs = zip(self.taught, self.ours, strict=True)
        return [
            ours / taught if self.unit == "samples/s" else taught / ours for taught, ours in pairs
        ]

    @property
    def ratio(self) -> float:
        """Of the medians."""
        taught, ours = median(self.taught), median(self.ours)
        return ours / taught if self.unit == "samples/s" else taught / ours

    def verdict(self, row: Row) -> str:
        """Whether ours is as fast as it should be, and as good."""
        if any(accuracy < row.reaches for accuracy in self.accuracies):
            return f"MISSED: {100 * min(self.accuracies):.2f} %"
        if any(ours > taught for taught, ours in self.divergences):
            return "MISSED: a worse map"
        return (
            "stretch"
            if self.ratio >= row.stretch
            else "met"
            if self.ratio >= row.target
            else "MISSED"
        )


FEW = {
    "epochs": 10,
    "pretrained": "none",
    "class_shares": [0.02] * 10,
}  # images: the tutorial's side takes minutes
# fmt: off
ROWS = (
    Row("MNIST CNN, training", SAME_RECIPE, "mnist_tutorial", "mnist", "steps 300", "steps 600", 1.8, 2.2),
    Row("MNIST to 99.0 %", SAME_ACCURACY, "mnist_fast", "mnist", "steps 300", "loop 1", 35, 60,
        epochs=20, reaches=0.99),
    Row("circles, 500 epochs", SAME_RECIPE, "circles_relu", "circles", "epochs 500", "loop 1", 5, 15),
    Row("cifar_v3, training", SAME_RECIPE, "cifar10_v3", "cifar_v3", "steps 100", "steps 200", 2, 2.3),
    Row("cifar_v3 to 88 %", SAME_ACCURACY, "cifar10_v3_short", "cifar_v3", "steps 100", "loop 1", 35, 60,
        n=1, epochs=150, reaches=0.88),
    Row("cifar_v3's 88 % by another network", SAME_ACCURACY, "cifar10_fast", "cifar_v3", "steps 100", "loop 1", 35, 60,
        n=3, epochs=150, reaches=0.88),
    Row("cifar_simple, training", SAME_RECIPE, "cifar10_simple", "cifar_simple", "steps 150", "steps 300", 2, 3),
    Row("Fashion-MNIST softmax, 10 epochs", SAME_RECIPE, "fashion_softmax", "fashion_softmax", "epochs 1", "loop 1",
        30, 50, n=3, epochs=10),
    Row("VGG16 with a frozen backbone, 10 epochs", SAME_RECIPE, "cifar10_vgg16", "vgg16", "steps 4", "all 1", 15, 25,
        n=1, changes=FEW, epochs=10),
    Row("t-SNE of 500 images", SAME_RECIPE, "mnist_tutorial", "tsne", "map 500", "map 500", 2, 10),
    Row("the test of 10,000 images", SAME_RECIPE, "mnist_tutorial", "mnist", "tests 2", "tests 5", 5, 10),
)
# fmt: on


def prepared(folder: Path, row: Row) -> Clone:
    """A clone with the parameters of the row's recipe, and its data."""
    values = recipes.load(row.recipe).values | row.changes
    clone = Clone(folder / row.recipe, values["dataset"])
    settings = [f"--set-param={key}={value}" for key, value in recipes.changes(values).items()]
    clone.run("dvc", "exp", "run", "--quiet", *settings, "preprocess")
    return clone


def turn(clone: Clone, which: str, row: Row, seed: int) -> Told:
    """One side, once, with that seed. Raises RetraceError where the machine has other work."""
    demand_quiet()
    what = row.ours if which == "ours" else row.taught
    told = clone.run(
        "python", "benchmarks/side.py", which, row.tutorial, *what.split(), str(seed)
    ).splitlines()[-1]
    return json.loads(told)


def demand_quiet() -> None:
    busy = psutil.cpu_percent(1.0) * (psutil.cpu_count() or 1)
    if busy > BUSY:
        raise RetraceError(
            f"other processes take {busy:.0f} % of a core, more than {BUSY:.0f} %; stop them first"
        )


def measure(clone: Clone, row: Row, n: int) -> Measured:
    """`n` turns of both sides."""
    sides: dict[str, list[Told]] = {"taught": [], "ours": []}
    for seed in range(n):
        for which, told in sides.items():
            told.append(turn(clone, which, row, seed))
    by_speed = row.ours.startswith(("steps", "tests"))
    drawn = (
        [told["divergence"] for told in side if "divergence" in told] for side in sides.values()
    )
    return Measured(
        unit="samples/s" if by_speed else "s",
        taught=[figure(told, row, by_speed=by_speed) for told in sides["taught"]],
        ours=[
            told["samples"] / told["seconds"] if by_speed else told["seconds"]
            for told in sides["ours"]
        ],
        accuracies=[told["accuracy"] for told in sides["ours"] if row.reaches],
        divergences=list(zip(*drawn, strict=True)),
        where=f"{processor()}, {psutil.cpu_count()} cores, at {commit()}",
    )


def figure(told: Told, row: Row, *, by_speed: bool) -> float:
    """The tutorial's speed, or the time that it takes for all of its epochs."""
    if by_speed:
        return told["samples"] / told["seconds"]
    return (
        told["seconds"] * row.epochs * told["of"] / told["samples"]
        if row.epochs
        else told["seconds"]
    )


def table(found: dict[str, Measured]) -> Iterator[str]:
    """Of what was measured, in Markdown."""
    yield line(*TOP)
    yield line(*["---"] * len(TOP))
    for row in ROWS:
        if row.name in found:
            yield _line(row, found[row.name])


def _line(row: Row, of: Measured) -> str:
    taught, ours = (
        f"{median(side):,.{2 if median(side) < 10 else 0}f} {of.unit}"
        for side in (of.taught, of.ours)
    )
    span = f" ({min(of.ratios):.1f}..{max(of.ratios):.1f})" if len(of.ratios) > 1 else ""
    aims = f"{row.target:g} ({row.stretch:g}): {of.verdict(row)}"
    return line(
        row.name, row.kind, taught, ours, f"{of.ratio:.1f}{span}", aims, str(len(of.ratios))
    )


def draw(found: dict[str, Measured]) -> None:
    """The ratios as bars, each with its target."""
    from matplotlib.figure import Figure

    from lab.report.figures import style

    rows = [row for row in reversed(ROWS) if row.name in found]
    figure = Figure(figsize=(8.5, 0.45 * len(rows) + 1.2), layout="constrained")
    axes = figure.subplots()
    for height, row in enumerate(rows):
        ratio = found[row.name].ratio
        axes.barh(height, ratio - 1, 0.6, left=1, color=style.COLOURS[row.kind == SAME_ACCURACY])
        axes.plot([row.target] * 2, [height - 0.4, height + 0.4], color=style.DARK_COLOURS[0], lw=2)
        beside = max(
            ratio, row.target if ratio < row.target < 1.4 * ratio else 1
        )  # not across the mark
        axes.text(beside * 1.07, height, f"{ratio:.1f}", va="center")
    least = min(1.0, *(0.8 * found[row.name].ratio for row in rows))
    axes.axvline(1, color=style.DARK_COLOURS[0], lw=0.8)
    axes.set(
        xscale="log",
        xlim=(least, 2 * max(found[row.name].ratio for row in rows)),
        yticks=range(len(rows)),
    )
    axes.set_yticklabels([row.name for row in rows])
    axes.set_xticks([1, 2, 5, 10, 20, 50], labels=["1", "2", "5", "10", "20", "50"])
    axes.set_xlabel(
        "times as fast as the tutorial, by the same recipe (blue) or\nto the same accuracy (orange); marks: targets"
    )
    style.title(figure, "The tutorials' trainings on two CPU cores")
    style.save(figure, PICTURE)


def write(found: dict[str, Measured]) -> None:
    """Write what was measured to the page, the record and the figure."""
    said = {
        row.name: asdict(found[row.name]) | {"ratio": found[row.name].ratio}
        for row in ROWS
        if row.name in found
    }
    RECORD.write_text(json.dumps({"rows": said}, indent=1) + "\n", encoding="utf-8")
    replace(PAGE, BEGIN, END, table(found))
    draw(found)


def recorded() -> dict[str, Measured]:
    """What the record has of rows that are still there."""
    if not RECORD.exists():
        return {}
    rows = json.loads(RECORD.read_text(encoding="utf-8"))["rows"]
    names = {row.name for row in ROWS}
    return {
        name: Measured(**{key: value for key, value in said.items() if key != "ratio"})
        for name, said in rows.items()
        if name in names
    }


def commit() -> str:
    """The last one, and whether something is not in it."""
    return git.run("describe", "--always", "--dirty").decode().strip()


def processor() -> str:
    said = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text(encoding="utf-8"))
    return said[1] if said else platform.processor()


def parsed() -> Namespace:
    parser = ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--only", nargs="+", metavar="WORD", help="rows whose names have one of these words"
    )
    parser.add_argument("--n", type=int, help="pairs of turns, instead of the row's own number")
    parser.add_argument(
        "--write", action="store_true", help=f"{PAGE}, the record and the figure too"
    )
    return parser.parse_args()


def main() -> None:
    asked = parsed()
    rows = [row for row in ROWS if not asked.only or any(word in row.name for word in asked.only)]
    if not rows:
        raise RetraceError(
            f"--only {' '.join(asked.only)}: no such row; there are {', '.join(r.name for r in ROWS)}"
        )
    found = recorded()
    head(*TOP)
    with place() as folder:
        for row in rows:
            found[row.name] = measure(prepared(folder, row), row, asked.n or row.n)
            print(_line(row, found[row.name]), flush=True)
            if asked.write:
                write(found)
    sys.exit(any("MISSED" in found[row.name].verdict(row) for row in rows))


if __name__ == "__main__":
    errors.run(main)
