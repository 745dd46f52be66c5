"""Suspicious labels as the page shows them, with their images."""

from dataclasses import dataclass

from lab.data.samples import Samples
from lab.evaluation import suspicious
from lab.report.html import images

SHOWN = 24  # samples, at most
SIDE = 128  # pixels of an image's longer side, at most


@dataclass(frozen=True)
class SuspiciousLabel:
    """A held-out sample whose label the network contradicts."""

    sample: str  # its file, or its split and its index there
    label: str
    predicted: str
    probability: float  # of the predicted class
    image: str  # a data: URL; empty if the sample is not an image


@dataclass(frozen=True)
class SuspiciousLabels:
    """The first few suspicious labels of `n`."""

    shown: list[SuspiciousLabel]
    n: int


def load(test: Samples) -> SuspiciousLabels:
    """Load what evaluate found. Raises DataError if the file is missing or malformed."""
    rows = suspicious.load()
    shown = []
    for row in rows[:SHOWN]:
        is_file = row.sample != str(row.number)
        image = images.encode(test.inputs[row.number], SIDE) if test.are_images else ""
        shown.append(
            SuspiciousLabel(
                row.sample if is_file else f"{row.split} sample {row.number:,}",
                row.label,
                row.predicted,
                row.probability,
                image,
            )
        )
    return SuspiciousLabels(shown, len(rows))
