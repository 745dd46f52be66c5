"""The data sets, by the name in params.yaml.

To add one: a module here with what `Dataset` asks for, a line in this table, its settings under `datasets:`.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from retrace.datasets import digits, mnist
from retrace.fetching import RawFile, Source
from retrace.samples import Samples


class Dataset(Protocol):
    """What a module here holds."""

    @property
    def FILES(self) -> Sequence[RawFile]: ...  # noqa: N802 - a module's constant

    @property
    def SOURCES(self) -> Mapping[str, Source]:  # noqa: N802 - a module's constant
        """By the names that messages use, in the order in which they are tried."""
        ...

    @property
    def read(self) -> Callable[..., tuple[Samples, Samples | None]]:
        """`read(folder, *, settings...)`: the training samples, and the test samples if there is a test part."""
        ...


DATASETS: dict[str, Dataset] = {
    "mnist": mnist,
    "digits": digits,
}
