"""The best network on CIFAR-10 (tutorial 002, section 12.3).

SGD at 0.01 with momentum, halved four times, 150 epochs with batches of 32.
"""

from torch import nn, optim
from torch.utils.data import DataLoader
from torchvision import transforms

from lab.data.samples import Samples
from tutorials.cifar import Loops
from tutorials.images import Images

EPOCHS = 150


def network() -> nn.Sequential:
    layers: list[nn.Module] = []
    for n_in, n_out in ((3, 32), (32, 64), (64, 128)):
        for n in (n_in, n_out):
            layers += [
                nn.Conv2d(n, n_out, 3, padding=1),
                nn.ReLU(inplace=True),
                nn.BatchNorm2d(n_out),
            ]
        layers.append(nn.MaxPool2d(2))
    layers += [
        nn.Flatten(),
        nn.Dropout(0.4),
        nn.Linear(2048, 64),
        nn.ReLU(inplace=True),
        nn.Dropout(0.4),
    ]
    return nn.Sequential(*layers, nn.Linear(64, 10))


class Tutorial(Loops):
    def __init__(self, train: Samples, test: Samples) -> None:
        to_tensor = transforms.ToTensor()
        crop = transforms.RandomCrop(32, padding=[0, 2, 3, 4])
        flip = transforms.RandomHorizontalFlip(p=0.5)
        train_data = Images(train, transforms.Compose([crop, flip, to_tensor]))
        model = network()
        super().__init__(
            model,
            optim.SGD(model.parameters(), lr=0.01, momentum=0.9),
            DataLoader(train_data, batch_size=32, shuffle=True),
            DataLoader(Images(test, to_tensor), batch_size=32),
        )
