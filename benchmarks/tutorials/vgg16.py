"""VGG16 with a new last layer, the only one that is trained (tutorial 002, section 11.1).

SGD at 0.01, batches of 64. Without the ImageNet weights, which do not change the time.
"""

from torch import nn, optim
from torch.utils.data import DataLoader
from torchvision import models, transforms

from lab.data.samples import Samples
from tutorials.cifar import Loops
from tutorials.images import Images

EPOCHS = 10


def network() -> nn.Module:
    vgg = models.vgg16(weights=None)
    vgg.requires_grad_(requires_grad=False)
    vgg.classifier[6] = nn.Linear(4096, 10)
    return vgg


class Tutorial(Loops):
    def __init__(self, train: Samples, test: Samples) -> None:
        to_tensor = transforms.ToTensor()
        model = network()
        super().__init__(
            model,
            optim.SGD((weight for weight in model.parameters() if weight.requires_grad), lr=0.01),
            DataLoader(Images(train, to_tensor), batch_size=64),
            DataLoader(Images(test, to_tensor), batch_size=64),
        )
