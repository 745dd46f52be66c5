"""How all pictures look, and how they become files: equal figures give equal bytes.

Colours are Petroff's ten (arXiv:2107.02270), chosen to be told apart with any colour vision.
"""

from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from retrace import paths

mpl.rcParams.update(
    {
        "figure.dpi": 120,
        "font.size": 10,
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

COLOURS = list(mpl.color_sequences["petroff10"])
INKS = [tuple(0.75 * part for part in to_rgb(colour)) for colour in COLOURS]  # darker, for letters
RIGHT, WRONG = "#333333", "#bd1f01"


def save(figure: Figure, path: Path) -> None:
    """`path` is a PNG without a date or a version in it."""
    with paths.atomic(path) as unfinished:
        figure.savefig(unfinished, format="png", metadata={"Software": None})


def show_image(axes: Axes, image: np.ndarray) -> None:
    """`image` of shape (channels, height, width) uint8, grey or RGB, without ticks or frame."""
    axes.imshow(image[0] if len(image) == 1 else image.transpose(1, 2, 0), cmap="gray", vmin=0, vmax=255)
    axes.set_axis_off()


def note(sentence: str) -> Figure:
    """A picture of one sentence, where there is nothing to draw."""
    figure = Figure(figsize=(6.5, 2), layout="constrained")
    figure.suptitle(sentence, fontweight="bold", fontsize=11)
    return figure


def grid(n: int, columns: int, cell: tuple[float, float], title: str) -> tuple[Figure, list[Axes]]:
    """A figure with `n` cells of `cell` inches (width, height), row by row, under one title."""
    rows = -(-n // columns)
    figure = Figure(figsize=(columns * cell[0], rows * cell[1] + 0.5), layout="constrained")
    figure.suptitle(title, fontweight="bold", fontsize=11)
    cells = figure.subplots(rows, columns, squeeze=False).ravel().tolist()
    for unused in cells[n:]:
        unused.set_axis_off()
    return figure, cells[:n]
