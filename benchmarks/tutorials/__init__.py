"""The tutorials' own training loops, written as in the tutorials, to compare retrace with.

Each module has a `Tutorial` that follows `Taught`: float32, torch's default settings, images
through a DataLoader one at a time. Printing, TensorBoard and drawing in the loop are left out,
because they would only slow the tutorials down.
"""

from collections.abc import Iterator
from typing import Protocol


class Taught(Protocol):
    """A tutorial's training."""

    def epoch(self) -> Iterator[int]:
        """Train for an epoch; yield each step's number of samples once the step is done."""
        ...

    def test(self) -> float:
        """Return the accuracy on the test split, 0..1."""
        ...
