"""scikit-learn's circles: two classes of points, one inside the other, not linearly separable."""

from functools import partial
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import Field

from lab.data import download
from lab.data.samples import Samples, Splits

FILES = ()
SOURCES: dict[str, download.Source] = {}
CLASS_NAMES = ("outer", "inner")

collect = partial(download.fetch, "circles", FILES, SOURCES)


def read(
    _folder: Path,
    *,
    samples: Annotated[int, Field(ge=4, le=10**7)],
    noise: Annotated[float, Field(ge=0, le=10)],
    random_state: Annotated[int, Field(ge=0, lt=2**32)],
) -> Splits:
    """Generate points (samples, 2), half of them in each circle; there is no test split.

    The radii are 1 and 0.8; `noise` is the standard deviation of the noise on each coordinate.
    """
    from sklearn.datasets import make_circles

    points, labels = make_circles(samples, noise=noise, random_state=random_state)
    inputs = np.asarray(points, np.float32)
    return Splits(Samples(inputs, np.asarray(labels, np.int64), CLASS_NAMES))
