"""scikit-learn's digits: 1,797 images of handwritten digits, 8x8 in 17 shades of gray, enlarged.

They ship with scikit-learn (the test split of UCI's optical recognition set) and need no network.
"""

from functools import partial
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import Field

from lab import paths
from lab.data import download, sources
from lab.data.samples import Samples, Splits
from retrace.errors import ParamsError

CSV = sources.RawFile(
    "digits.csv",
    264_712,
    "a0339c30a8a5312a1b6f9e5c719dcce5",
    "6ebb3d2fee246a4e99363262ddf8a00a3c41bee6014c373ed9d9216ba7f651b8",
)
FILES = (CSV,)
SOURCES = {
    "RETRACE_MIRROR": sources.mirror("digits"),
    "Python package scikit-learn": sources.installed(
        "sklearn", {CSV.name: "datasets/data/digits.csv.gz"}
    ),
}
BRIGHTEST = 16

collect = partial(download.fetch, "digits", FILES, SOURCES)


def read(
    folder: Path,
    *,
    classes: Annotated[int, Field(ge=2, le=10)],
    zoom: Annotated[int, Field(ge=1, le=8)],
    side: Annotated[int, Field(ge=8, le=64)],
) -> Splits:
    """Read the first `classes` digits as images (n, 1, side, side); there is no test split.

    Each pixel becomes a square of `zoom` by `zoom` pixels, centered on black.
    """
    if side < 8 * zoom:
        allowed = f"should be at least 8 * zoom, which is {8 * zoom}"
        raise ParamsError(f"{paths.PARAMS}: datasets.digits.side is {side}; {allowed}")
    table = np.loadtxt(folder / CSV.name, delimiter=",", dtype=np.uint8)
    table = table[table[:, 64] < classes]
    shades = table[:, :64].reshape(-1, 8, 8)
    labels = table[:, 64].astype(np.int64)
    pixels = (shades.astype(np.uint16) * 255 // BRIGHTEST).astype(np.uint8)
    zoomed = pixels.repeat(zoom, axis=1).repeat(zoom, axis=2)
    margin = ((side - 8 * zoom) // 2, (side - 8 * zoom + 1) // 2)
    padded = np.pad(zoomed, ((0, 0), margin, margin))
    return Splits(Samples(padded[:, np.newaxis], labels, tuple("0123456789"[:classes])))
