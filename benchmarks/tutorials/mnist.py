"""The CNN on MNIST (tutorial 000): Adam at 0.01, batches of 50, 20 epochs."""

from collections.abc import Iterator

import torch
import torch.nn.functional as F  # noqa: N812 - the usual name
from torch import Tensor, nn, optim
from torch.utils.data import DataLoader
from torchvision import transforms

from lab.data.samples import Samples
from tutorials.images import Images

EPOCHS = 20


class CNN(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 16, 5, 1, 2)
        self.conv2 = nn.Conv2d(16, 32, 5, 1, 2)
        self.fc1 = nn.Linear(32 * 7 * 7, 128)
        self.fc2 = nn.Linear(128, 10)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        features = F.relu(self.fc1(x.view(x.size(0), -1)))
        return F.log_softmax(self.fc2(features), dim=1), features


class Tutorial:
    def __init__(self, train: Samples, test: Samples) -> None:
        to_tensor = transforms.ToTensor()
        self.train_loader = DataLoader(Images(train, to_tensor), batch_size=50, shuffle=True)
        self.test_loader = DataLoader(Images(test, to_tensor), batch_size=500, shuffle=False)
        self.cnn = CNN()
        self.loss_func = nn.CrossEntropyLoss()
        self.optimizer = optim.Adam(self.cnn.parameters(), lr=0.01)

    def epoch(self) -> Iterator[int]:
        train_loss = 0.0
        train_correct = 0.0
        for batch_x, batch_y in self.train_loader:
            out, _ = self.cnn(batch_x)
            loss = self.loss_func(out, batch_y)
            train_loss += loss.item()
            train_correct += (torch.max(out, 1)[1] == batch_y).sum().item()
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            yield len(batch_y)

    def test(self) -> float:
        self.cnn.eval()
        loss = 0.0
        correct = 0
        with torch.no_grad():
            for batch_x, batch_y in self.test_loader:
                out, _ = self.cnn(batch_x)
                loss += self.loss_func(out, batch_y).item()
                correct += int((torch.max(out, 1)[1] == batch_y).sum().item())
        return correct / len(self.test_loader.dataset)  # pyright: ignore[reportArgumentType] - it has a length
