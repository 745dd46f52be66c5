"""Two circles (tutorial 001): three linear layers with ReLU.

Adam at 0.001, full batch, 500 epochs.
"""

from collections.abc import Iterator

import torch
from torch import Tensor, nn, optim

from lab.data.samples import Samples

EPOCHS = 500


def accuracy(outputs: Tensor, labels: Tensor) -> float:
    _, predicted = torch.max(outputs, 1)
    return (predicted == labels).sum().item() / labels.size(0)


class Tutorial:
    def __init__(self, train: Samples, test: Samples) -> None:
        self.train_x = torch.from_numpy(train.inputs)
        self.train_y = torch.from_numpy(train.labels)
        self.test_x = torch.from_numpy(test.inputs)
        self.test_y = torch.from_numpy(test.labels)
        self.model = nn.Sequential(
            nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 2)
        )
        self.optimizer = optim.Adam(self.model.parameters(), lr=0.001)
        self.criterion = nn.CrossEntropyLoss()

    def epoch(self) -> Iterator[int]:
        self.model.train()
        self.optimizer.zero_grad()
        loss = self.criterion(self.model(self.train_x), self.train_y)
        loss.backward()
        self.optimizer.step()
        yield len(self.train_y)

    def test(self) -> float:
        """Evaluate on the training and test splits; return the test accuracy."""
        self.model.eval()
        with torch.no_grad():
            train_outputs = self.model(self.train_x)
            test_outputs = self.model(self.test_x)
            accuracy(train_outputs, self.train_y)
            test_accuracy = accuracy(test_outputs, self.test_y)
            self.criterion(train_outputs, self.train_y)
            self.criterion(test_outputs, self.test_y)
        return test_accuracy
