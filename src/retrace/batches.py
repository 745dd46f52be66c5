"""A part of the data on the device as two tensors, and batches as look-ups in them: no loader, no workers."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch

from retrace.samples import Samples
from retrace.shapes import Inputs, Labels

Augment = Callable[[Inputs, torch.Generator], Inputs]


@dataclass(frozen=True)
class Part:
    """All inputs and labels of a part, on one device."""

    inputs: Inputs
    labels: Labels

    def __len__(self) -> int:
        return len(self.labels)


def on_device(samples: Samples, device: torch.device) -> Part:
    inputs, labels = torch.from_numpy(samples.inputs), torch.from_numpy(samples.labels)
    return Part(inputs.to(device), labels.to(device))


def count(part: Part, size: int) -> int:
    """Steps in an epoch."""
    return len(_sizes(len(part), size))


def _sizes(n: int, size: int) -> list[int]:
    """Of the batches of `n` samples; the last may be smaller. One sample alone, which batch norm could not take, goes
    with the batch before.
    """
    whole, rest = divmod(n, size)
    if rest == 1 and whole:
        return [size] * (whole - 1) + [size + 1]
    return [size] * whole + [rest] * (rest > 0)


def shuffled(part: Part, size: int, augment: Augment, *, seed: int, epoch: int) -> Iterator[tuple[Inputs, Labels]]:
    """Every sample once, augmented. (seed, epoch) alone decide how, so that a resumed run goes on with the same."""
    order = torch.randperm(len(part), generator=_random(seed, epoch)).to(part.labels.device)
    random = _random(seed, epoch, 1)
    for indices in order.split(_sizes(len(part), size)):
        yield augment(part.inputs[indices], random), part.labels[indices]


def _random(*entropy: int) -> torch.Generator:
    """A generator of its own for each number or list of numbers, on the CPU: equal draws on every device."""
    mixed = np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(mixed))
