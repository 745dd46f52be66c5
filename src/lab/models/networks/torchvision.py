"""Any torchvision classifier by name, with a new head (tutorial 002, section 11.1)."""

from lab.models import backbone
from lab.models.backbone import Head
from lab.models.layers import Built, Shape


def build(shape: Shape, n_classes: int, *, name: str, head: Head) -> Built:
    """Shapes: (batch, 3, height, width) -> the last layer's inputs -> (batch, n_classes)."""
    return backbone.build(name, shape, n_classes, head)
