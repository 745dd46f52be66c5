"""Images as torchvision's MNIST and CIFAR10 return them: one PIL image at a time, as a tensor.

The classes of torchvision need files in their own layout, and unpickle those of CIFAR. An item
costs the same here.
"""

from collections.abc import Callable

import numpy as np
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from lab.data.samples import Samples


class Images(Dataset[tuple[Tensor, int]]):
    """The samples of a split, as a tutorial's DataLoader takes them."""

    def __init__(self, samples: Samples, transform: Callable[[Image.Image], Tensor]) -> None:
        images = samples.inputs.transpose(0, 2, 3, 1)
        self.images = np.ascontiguousarray(images.squeeze(3) if images.shape[3] == 1 else images)
        self.labels, self.transform = samples.labels, transform

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(Image.fromarray(self.images[index])), int(self.labels[index])
