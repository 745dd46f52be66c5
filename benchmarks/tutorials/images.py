"""Images as torchvision's MNIST and CIFAR10 return them: one PIL image at a time, as a tensor.

torchvision's own classes need files in their own layout, and unpickle those of CIFAR. Loading an
item takes the same time here.
"""

from collections.abc import Callable

import numpy as np
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from lab.data.samples import Samples


class Images(Dataset[tuple[Tensor, int]]):
    """The samples of a split, in the form that a tutorial's DataLoader expects."""

    def __init__(self, samples: Samples, transform: Callable[[Image.Image], Tensor]) -> None:
        images = samples.inputs.transpose(0, 2, 3, 1)
        self.images = np.ascontiguousarray(images.squeeze(3) if images.shape[3] == 1 else images)
        self.labels = samples.labels
        self.transform = transform

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(Image.fromarray(self.images[index])), int(self.labels[index])
