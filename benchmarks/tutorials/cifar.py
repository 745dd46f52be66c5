"""Common code of the CIFAR-10 tutorials (tutorial 002): DataLoaders, SGD, metrics at every step."""

from collections.abc import Iterator

import torch
from torch import nn, optim
from torch.utils.data import DataLoader


class Loops:
    def __init__(
        self,
        model: nn.Module,
        optimizer: optim.Optimizer,
        train_loader: DataLoader,
        test_loader: DataLoader,
    ) -> None:
        self.model = model
        self.optimizer = optimizer
        self.train_loader = train_loader
        self.test_loader = test_loader
        self.loss_function = nn.CrossEntropyLoss()

    def epoch(self) -> Iterator[int]:
        train_loss = 0.0
        train_correct = 0.0
        self.model.train()
        for images, targets in self.train_loader:
            output = self.model(images)
            train_correct += (output.argmax(dim=1) == targets).float().sum()
            loss = self.loss_function(output, targets)
            train_loss += loss.item()
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            yield len(targets)

    def test(self) -> float:
        self.model.eval()
        loss = 0.0
        correct = torch.zeros(())
        with torch.no_grad():
            for images, targets in self.test_loader:
                output = self.model(images)
                correct += (output.argmax(dim=1) == targets).float().sum()
                loss += self.loss_function(output, targets).item()
        return correct.item() / len(self.test_loader.dataset)  # pyright: ignore[reportArgumentType] - it has a length
