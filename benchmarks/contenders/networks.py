"""The networks of the comparison, equal to those in src/lab/models/networks/."""

from itertools import pairwise

import torch
from torch import Tensor, nn


class Classifier(nn.Module):
    """A backbone and a head, in the data type in which retrace trains on this machine.

    A frozen backbone has no gradients and stays in evaluation mode.
    """

    def __init__(self, name: str, n_classes: int, *, frozen: bool, dtype: torch.dtype) -> None:
        super().__init__()
        self.backbone, n_features = BACKBONES[name]()
        self.head = nn.Linear(n_features, n_classes)
        self.frozen = frozen
        self.dtype = dtype
        self.backbone.requires_grad_(not frozen)
        self.to(memory_format=torch.channels_last)

    def forward(self, images: Tensor) -> Tensor:
        images = images.contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", self.dtype, enabled=self.dtype is not torch.float32):
            with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
                features = self.backbone(images)
            return self.head(features).float()

    def train(self, mode: bool = True) -> "Classifier":
        super().train(mode)
        if self.frozen:
            self.backbone.eval()
        return self


def cnn() -> tuple[nn.Module, int]:
    return nn.Sequential(
        nn.Conv2d(1, 16, 5, padding="same"),
        nn.MaxPool2d(2),
        nn.ReLU(),
        nn.Conv2d(16, 32, 5, padding="same"),
        nn.MaxPool2d(2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(32 * 7 * 7, 128),
        nn.ReLU(),
    ), 128


def cifar_v3() -> tuple[nn.Module, int]:
    layers: list[nn.Module] = []
    for n_in, n_out in pairwise([3, 32, 64, 128]):
        for n in (n_in, n_out):
            layers += [nn.Conv2d(n, n_out, 3, padding=1), nn.ReLU(inplace=True)]
            layers.append(nn.BatchNorm2d(n_out))
        layers.append(nn.MaxPool2d(2))
    layers += [nn.Flatten(), nn.Dropout(0.4), nn.Linear(128 * 16, 64), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers, nn.Dropout(0.4)), 64


def resnet18() -> tuple[nn.Module, int]:
    from torchvision import models

    network = models.resnet18(weights=None)
    network.fc = nn.Identity()
    return network, 512


def efficientnet_lite0() -> tuple[nn.Module, int]:
    import timm

    network = timm.create_model("tf_efficientnet_lite0", pretrained=False, num_classes=0)
    return network, 1280


BACKBONES = {
    "cnn": cnn,
    "cifar_v3": cifar_v3,
    "resnet18": resnet18,
    "efficientnet_lite0": efficientnet_lite0,
}
