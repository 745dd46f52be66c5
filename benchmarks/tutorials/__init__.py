"""The tutorials' own loops, as plainly as they teach them: what retrace's are timed against.

Each module has a `Tutorial`, which is `Taught`: float32, torch's own settings, images through a DataLoader one at a
time. What a tutorial prints, writes for TensorBoard or draws in its loop is left out: it would flatter the other side.
"""

from collections.abc import Iterator
from typing import Protocol


class Taught(Protocol):
    """A training as a tutorial does it."""

    def epoch(self) -> Iterator[int]:
        """An epoch of training, which tells the samples of each step when the step is done."""
        ...

    def test(self) -> float:
        """The share of test samples that are correctly classified, 0..1."""
        ...
