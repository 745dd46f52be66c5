"""The look of all figures, and their files: equal figures give equal bytes.

The colors are Petroff's ten (arXiv:2107.02270), which people with any color vision can distinguish.
"""

import textwrap
import warnings
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

from lab.data.unusable import printable
from retrace.system import files

mpl.rcParams.update(
    {
        "figure.dpi": 120,
        "font.size": 10,
        "text.parse_math": False,  # class names may contain mathtext's characters
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

COLORS = [to_rgb(color) for color in mpl.color_sequences["petroff10"]]
DARK_COLORS = [tuple(0.75 * channel for channel in color) for color in COLORS]  # for letters
DARK = "#333333"
RED = "#bd1f01"  # misclassified
GUIDE = "#999999"
Color = tuple[float, float, float]
CHARACTER_WIDTH = 0.08  # inches, in a label
LINE_HEIGHT = 0.17  # inches
LEGIBLE = 20  # names in a legend or on an axis; more classes are numbered

NO_IMAGES = "the samples are features, not images"
ONE_CLASS = "all test samples are of one class"

Cells = Annotated[int, Field(ge=1, le=40)]
Curves = Annotated[int, Field(ge=1, le=len(COLORS))]


class PlainLogFormatter(LogFormatter):
    """A formatter that labels minor ticks with plain numbers, if there is room."""

    def __call__(self, x: float, pos: int | None = None) -> str:
        return f"{x:g}" if super().__call__(x, pos) else ""


def save(figure: Figure, path: Path) -> None:
    """Write `figure` as a PNG without a date or a version in it."""
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            if axis.get_scale() == "log":  # matplotlib's own labels are mathtext
                axis.set_major_formatter("{x:g}")
                axis.set_minor_formatter(PlainLogFormatter())
    with files.atomic(path) as unfinished, warnings.catch_warnings():
        # A character that the font lacks is drawn as a box.
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        figure.savefig(unfinished, format="png", metadata={"Software": None})


def show_image(axes: Axes, image: np.ndarray) -> None:
    """Show an image (channels, height, width) uint8, gray or RGB, without ticks or frame."""
    pixels = image[0] if len(image) == 1 else image.transpose(1, 2, 0)
    axes.imshow(pixels, cmap="gray", vmin=0, vmax=255)
    axes.set_axis_off()


def short(name: str, most: int = 20) -> str:
    """Cut `name` to `most` characters, all on one line."""
    name = printable(name)
    if name.startswith("_"):  # matplotlib leaves such names out of legends
        name = f" {name}"
    return name if len(name) <= most else f"{name[: most - 1]}…"


def grid(labels: Sequence[str], columns: int, sentence: str) -> tuple[Figure, list[Axes]]:
    """Lay out a figure with a cell for each label, row by row, with room for the labels."""
    lines = [label.splitlines() for label in labels]
    longest = max((len(line) for label in lines for line in label), default=0)
    width = max(0.9, CHARACTER_WIDTH * longest + 0.1)
    height = width + LINE_HEIGHT * max(map(len, lines)) + 0.1
    columns = min(columns, len(labels))
    rows = -(-len(labels) // columns)
    size = (max(5.0, columns * width), rows * height + 0.5)
    figure = Figure(figsize=size, layout="constrained")
    title(figure, sentence)
    cells = figure.subplots(rows, columns, squeeze=False).ravel().tolist()
    for label, axes in zip(labels, cells, strict=False):
        # Without `y`, matplotlib creates ticks to find a free position.
        axes.set_title(label, fontsize=9, fontweight="normal", y=1)
    for unused in cells[len(labels) :]:
        unused.set_axis_off()
    return figure, cells[: len(labels)]


def title(figure: Figure, sentence: str) -> None:
    """Write `sentence` over the whole figure, in as many lines as it needs."""
    lines = textwrap.fill(sentence, int(figure.get_figwidth() * 11))
    figure.suptitle(lines, fontweight="bold", fontsize=11)


def worst(scores: dict[int, float], most: int) -> dict[int, Color]:
    """Return the classes with the `most` lowest scores, lowest first, and their colors."""
    ranked = sorted(scores, key=lambda i: (scores[i], i))[:most]
    is_few = max(scores) < len(COLORS)  # then a class has the same color in all figures
    return {i: COLORS[i if is_few else rank] for rank, i in enumerate(ranked)}


def axis_start(lowest: float) -> float:
    """Return where an axis that ends at 1 begins, for a curve that stays above `lowest`."""
    return max(start for start in (0, 0.5, 0.8, 0.9, 0.95, 0.98) if start <= max(lowest, 0))
