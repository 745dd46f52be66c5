"""Softmax regression from scratch on Fashion-MNIST (tutorial 004).

Gradient descent at 0.1, batches of 256, 10 epochs. Four workers, as in the loader of d2l that the
tutorial calls (zh.d2l.ai, section 3.5).
"""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision import transforms

from lab.data.samples import Samples
from tutorials.images import Images

EPOCHS = 10
LEARNING_RATE = 0.1


def softmax(x: Tensor) -> Tensor:
    exponentials = torch.exp(x)
    return exponentials / exponentials.sum(1, keepdim=True)


def cross_entropy(y_hat: Tensor, y: Tensor) -> Tensor:
    return -torch.log(y_hat[range(len(y_hat)), y])


def n_correct(y_hat: Tensor, y: Tensor) -> float:
    return float((y_hat.argmax(dim=1).type(y.dtype) == y).type(y.dtype).sum())


class Tutorial:
    def __init__(self, train: Samples, test: Samples) -> None:
        to_tensor = transforms.ToTensor()
        self.train_iter = DataLoader(Images(train, to_tensor), 256, shuffle=True, num_workers=4)
        self.test_iter = DataLoader(Images(test, to_tensor), 256, shuffle=False, num_workers=4)
        self.weight = torch.normal(0, 0.01, size=(784, 10), requires_grad=True)
        self.bias = torch.zeros(10, requires_grad=True)

    def net(self, x: Tensor) -> Tensor:
        return softmax(torch.matmul(x.reshape((-1, 784)), self.weight) + self.bias)

    def epoch(self) -> Iterator[int]:
        loss_sum = 0.0
        correct = 0.0
        n = 0
        for x, y in self.train_iter:
            y_hat = self.net(x)
            loss = cross_entropy(y_hat, y)
            loss.sum().backward()
            with torch.no_grad():
                for parameter in (self.weight, self.bias):
                    assert parameter.grad is not None
                    parameter.sub_(LEARNING_RATE * parameter.grad / len(y))
                    parameter.grad.zero_()
            loss_sum += float(loss.sum())
            correct += n_correct(y_hat, y)
            n += y.numel()
            yield len(y)

    def test(self) -> float:
        correct = 0.0
        n = 0
        with torch.no_grad():
            for x, y in self.test_iter:
                correct += n_correct(self.net(x), y)
                n += y.numel()
        return correct / n
