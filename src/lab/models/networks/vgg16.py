"""VGG16 with a new head (tutorial 002, section 11.1).

Simonyan and Zisserman 2015, arXiv:1409.1556.
"""

from lab.models import backbone
from lab.models.backbone import Head
from lab.models.layers import Built, Shape


def build(shape: Shape, n_classes: int, *, head: Head) -> Built:
    """Shapes: (batch, 3, height, width) -> (batch, 512, height / 32, width / 32) ->
    (batch, 4096) -> (batch, n_classes).
    """
    return backbone.build("vgg16", shape, n_classes, head)
