"""Any torchvision classifier by name, with a new head (seeds/002, 11.1)."""

from retrace import transfer
from retrace.layers import Built, Shape
from retrace.transfer import Head


def build(shape: Shape, n_classes: int, *, name: str, head: Head) -> Built:
    """Build it: (batch, 3, height, width) -> the last layer's inputs -> (batch, n_classes)."""
    return transfer.build(name, shape, n_classes, head)
