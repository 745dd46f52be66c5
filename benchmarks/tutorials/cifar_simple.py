"""The first CIFAR-10 network (tutorial 002, section 9.2): SGD at 0.01, unshuffled batches of 64."""

from torch import nn, optim
from torch.utils.data import DataLoader
from torchvision import transforms

from lab.data.samples import Samples
from tutorials.cifar import Loops
from tutorials.images import Images

EPOCHS = 20


def network() -> nn.Sequential:
    layers: list[nn.Module] = []
    for n_in, n_out in ((3, 32), (32, 32), (32, 64)):
        layers += [nn.Conv2d(n_in, n_out, 5, padding=2), nn.MaxPool2d(2)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(1024, 64), nn.Linear(64, 10))


class Tutorial(Loops):
    def __init__(self, train: Samples, test: Samples) -> None:
        to_tensor = transforms.ToTensor()
        model = network()
        super().__init__(
            model,
            optim.SGD(model.parameters(), lr=0.01),
            DataLoader(Images(train, to_tensor), batch_size=64),
            DataLoader(Images(test, to_tensor), batch_size=64),
        )
