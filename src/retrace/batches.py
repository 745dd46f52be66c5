"""A part of the data on the device as two tensors, and batches as look-ups in them: no loader, no workers."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from retrace.samples import Samples
from retrace.shapes import Images, Labels


@dataclass(frozen=True)
class Part:
    """All images and labels of a part, on one device."""

    images: Images
    labels: Labels

    def __len__(self) -> int:
        return len(self.labels)


def on_device(samples: Samples, device: torch.device) -> Part:
    images, labels = torch.from_numpy(samples.images), torch.from_numpy(samples.labels)
    return Part(images.to(device), labels.to(device))


def count(part: Part, size: int) -> int:
    """Steps in an epoch; the last batch may be smaller."""
    return -(-len(part) // size)


def shuffled(part: Part, size: int, seed: int, epoch: int) -> Iterator[tuple[Images, Labels]]:
    """Every sample once, in an order that (seed, epoch) alone decides, so that a resumed run goes on with the same."""
    mixed = int(np.random.SeedSequence([seed, epoch]).generate_state(1, np.uint64)[0])
    order = torch.randperm(len(part), generator=torch.Generator().manual_seed(mixed)).to(part.labels.device)
    for indices in order.split(size):
        yield part.images[indices], part.labels[indices]
