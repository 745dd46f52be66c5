"""Any classifier of torchvision by its name there, its head changed for other classes (seeds/002, 11.1)."""

from retrace import transfer
from retrace.layers import Built, Shape
from retrace.transfer import Head


def build(shape: Shape, n_classes: int, *, name: str, head: Head) -> Built:
    """(batch, 3, height, width) -> what the network feeds to its last layer -> (batch, n_classes)."""
    return transfer.build(name, shape, n_classes, head)
