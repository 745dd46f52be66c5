"""How all pictures look, and how they become files: equal figures give equal bytes.

Colours are Petroff's ten (arXiv:2107.02270), chosen to be told apart with any colour vision.
"""

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter
from pydantic import Field

from retrace import files

mpl.rcParams.update(
    {
        "figure.dpi": 120,
        "font.size": 10,
        "text.parse_math": False,  # the name of a class may hold what mathtext would read
        "axes.titlesize": 11,
        "axes.titleweight": "bold",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid.axis": "y",
        "grid.color": "#dddddd",
        "grid.linewidth": 0.8,
        "axes.axisbelow": True,
    }
)

COLOURS = [to_rgb(colour) for colour in mpl.color_sequences["petroff10"]]
INKS = [tuple(0.75 * part for part in colour) for colour in COLOURS]  # darker, for letters
RIGHT, WRONG, GUIDE = "#333333", "#bd1f01", "#999999"
Colour = tuple[float, float, float]
CHARACTER, LINE = 0.08, 0.17  # inches, of a label
LEGIBLE = 20  # names in a legend or on an axis; of more classes, numbers stand for the names

NO_IMAGES = "the samples are features, not images"
ONE_CLASS = "all test samples are of one class"

Cells = Annotated[int, Field(ge=1, le=40)]
Curves = Annotated[int, Field(ge=1, le=len(COLOURS))]


class Plain(LogFormatter):
    """Labels those minor ticks that have room, with plain numbers."""

    def __call__(self, x: float, pos: int | None = None) -> str:
        return f"{x:g}" if super().__call__(x, pos) else ""


def save(figure: Figure, path: Path) -> None:
    """`path` is a PNG without a date or a version in it."""
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            if axis.get_scale() == "log":  # matplotlib's own labels are powers in mathtext, which is not parsed here
                axis.set_major_formatter("{x:g}")
                axis.set_minor_formatter(Plain())
    with files.atomic(path) as unfinished:
        figure.savefig(unfinished, format="png", metadata={"Software": None})


def show_image(axes: Axes, image: np.ndarray) -> None:
    """`image` of shape (channels, height, width) uint8, grey or RGB, without ticks or frame."""
    axes.imshow(image[0] if len(image) == 1 else image.transpose(1, 2, 0), cmap="gray", vmin=0, vmax=255)
    axes.set_axis_off()


def short(name: str, most: int = 20) -> str:
    """`name`, cut to `most` characters."""
    name = f" {name}" if name.startswith("_") else name  # or matplotlib would leave it out of legends
    return name if len(name) <= most else f"{name[: most - 1]}…"


def grid(labels: Sequence[str], columns: int, title: str) -> tuple[Figure, list[Axes]]:
    """A figure with a cell a label, row by row under one title; cells have room for the labels above them."""
    lines = [label.splitlines() for label in labels]
    width = max(0.9, CHARACTER * max((len(line) for label in lines for line in label), default=0) + 0.1)
    height = width + LINE * max(map(len, lines)) + 0.1
    columns = min(columns, len(labels))
    rows = -(-len(labels) // columns)
    figure = Figure(figsize=(max(5.0, columns * width), rows * height + 0.5), layout="constrained")
    headline(figure, title)
    cells = figure.subplots(rows, columns, squeeze=False).ravel().tolist()
    for label, axes in zip(labels, cells, strict=False):
        # Without a place of its own, matplotlib seeks one, among ticks that it makes for that.
        axes.set_title(label, fontsize=9, fontweight="normal", y=1)
    for unused in cells[len(labels) :]:
        unused.set_axis_off()
    return figure, cells[: len(labels)]


def headline(figure: Figure, sentence: str) -> None:
    """`sentence` is over all of the figure, in as many lines as it takes."""
    figure.suptitle(textwrap.fill(sentence, int(figure.get_figwidth() * 11)), fontweight="bold", fontsize=11)


def worst(scores: dict[int, float], most: int) -> dict[int, Colour]:
    """The classes of the `most` lowest scores, lowest first, each with its colour."""
    ranked = sorted(scores, key=lambda i: (scores[i], i))[:most]
    few = max(scores) < len(COLOURS)  # then a class has the same colour in all pictures
    return {i: COLOURS[i if few else rank] for rank, i in enumerate(ranked)}


def corner(lowest: float) -> float:
    """Where an axis up to 1 begins, so that a curve which stays above `lowest` fills it."""
    return max(start for start in (0, 0.5, 0.8, 0.9, 0.95, 0.98) if start <= max(lowest, 0))
