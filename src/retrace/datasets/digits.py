"""scikit-learn's digits: 1,797 images of handwritten digits, 8x8 in 17 shades of grey, laid out like MNIST's.

They ship inside scikit-learn (the test part of UCI's optical recognition set) and so need no network.
"""

from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import Field

from retrace import fetching
from retrace.samples import Samples

CSV = fetching.RawFile(
    "digits.csv",
    264_712,
    "a0339c30a8a5312a1b6f9e5c719dcce5",
    "6ebb3d2fee246a4e99363262ddf8a00a3c41bee6014c373ed9d9216ba7f651b8",
)
FILES = (CSV,)
SOURCES = {
    "RETRACE_MIRROR": fetching.mirror("digits"),
    "Python package scikit-learn": fetching.installed("sklearn", {CSV.name: "datasets/data/digits.csv.gz"}),
}
SIDE = 28  # pixels, MNIST's
BRIGHTEST = 16


def read(folder: Path, *, zoom: Annotated[int, Field(ge=1, le=3)]) -> tuple[Samples, None]:
    """All 1,797 samples, shape (1797, 1, 28, 28); there is no test part."""
    table = np.loadtxt(folder / CSV.name, delimiter=",", dtype=np.uint8)
    shades, labels = table[:, :64].reshape(-1, 8, 8), table[:, 64].astype(np.int64)
    pixels = (shades.astype(np.uint16) * 255 // BRIGHTEST).astype(np.uint8)
    margin = (SIDE - 8 * zoom) // 2
    zoomed = pixels.repeat(zoom, axis=1).repeat(zoom, axis=2)
    padded = np.pad(zoomed, ((0, 0), (margin, margin), (margin, margin)))
    return Samples(padded[:, np.newaxis], labels, tuple("0123456789")), None
