"""Two circles, one within the other: points of a plane that no straight line tells apart (scikit-learn's)."""

from functools import partial
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import Field

from retrace import fetching
from retrace.samples import Parts, Samples

FILES = ()
SOURCES: dict[str, fetching.Source] = {}
CLASS_NAMES = ("outer", "inner")

collect = partial(fetching.fetch, "circles", FILES, SOURCES)


def read(
    _folder: Path,
    *,
    samples: Annotated[int, Field(ge=4, le=10**7)],
    noise: Annotated[float, Field(ge=0, le=10)],
    random_state: Annotated[int, Field(ge=0, lt=2**32)],
) -> Parts:
    """Points of shape (samples, 2), half of them a circle; there is no test part.

    The radii are 1 and 0.8, and `noise` is the standard deviation of what is added to each coordinate.
    """
    from sklearn.datasets import make_circles

    points, labels = make_circles(samples, noise=noise, random_state=random_state)
    return Parts(Samples(np.asarray(points, np.float32), np.asarray(labels, np.int64), CLASS_NAMES))
