"""LeNet with 6 and 16 channels, 120 and 84 units (tutorial 003; LeCun et al. 1998).

Smaller images are padded to 32x32. ReLU comes after the pooling: see cnn.py.
"""

from torch import nn

from lab.models.layers import Built, MaxPool, Shape

SIDE = 32  # pixels


def build(shape: Shape, n_classes: int) -> Built:
    """Shapes: (batch, channels, 32, 32) -> (batch, 6, 14, 14) -> (batch, 16, 5, 5) ->
    (batch, 120) -> (batch, 84).
    """
    depth, *sides = shape
    margins = [max(SIDE - side, 0) for side in sides]
    top, left = (margin // 2 for margin in margins)
    bottom, right = margins[0] - top, margins[1] - left
    tall, wide = (((max(side, SIDE) - 4) // 2 - 4) // 2 for side in sides)
    backbone = nn.Sequential(
        nn.ZeroPad2d((left, right, top, bottom)),
        nn.Conv2d(depth, 6, 5),
        MaxPool(),
        nn.ReLU(),
        nn.Conv2d(6, 16, 5),
        MaxPool(),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(16 * tall * wide, 120),
        nn.ReLU(),
        nn.Linear(120, 84),
        nn.ReLU(),
    )
    return backbone, nn.Linear(84, n_classes)
