"""Mixup and cutmix: each input of a batch is mixed with a partner, the batch in reverse order.

All inputs of a batch have the same share, which is drawn from a beta distribution. With both, each
batch gets one of them, with the same probability, as in timm.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lab.data import batches
from lab.data.batches import Part
from lab.shapes import BatchLabels, Images, Inputs, Mixed
from lab.training.processes import Group

CUTMIX_PROBABILITY = 0.5  # of a batch, if mixup is on too


@dataclass(frozen=True)
class Mixing:
    """The two settings: alphas of the beta distribution; 0 is off."""

    mixup: float
    cutmix: float

    def part(self, group: Group) -> Part:
        """Return which inputs of a batch a process reads: its slice, then their partners."""

        def positions(n: int) -> slice | Tensor:
            own = group.part(n)
            if group.size == 1:
                return own
            every = torch.arange(n)
            return torch.cat([every[own], every.flip(0)[own]])

        return positions

    def mixed(
        self, inputs: Inputs, labels: BatchLabels, generator: torch.Generator, group: Group
    ) -> tuple[Tensor, Mixed]:
        """Mix the inputs that `part` chose with their partners; the labels are the whole batch's.

        The share is drawn from `generator`.
        """
        own, partners = (inputs, inputs.flip(0)) if group.size == 1 else inputs.chunk(2)
        rng = batches.numpy_rng(generator)
        if self.cutmix and (not self.mixup or rng.random() < CUTMIX_PROBABILITY):
            result, share = cutmix(own, partners, rng.beta(self.cutmix, self.cutmix), rng)
        else:
            share = rng.beta(self.mixup, self.mixup)
            result = mixup(own, partners, share)
        return result, targets(labels, share)


def mixup(inputs: Inputs, partners: Inputs, share: float) -> Inputs:
    """Return share * inputs + (1 - share) * partners (Zhang et al. 2018, arXiv:1710.09412).

    Images are rounded to whole numbers.
    """
    mixed = inputs * share + partners * (1 - share)
    return mixed if inputs.dtype.is_floating_point else mixed.round_().to(inputs.dtype)


def cutmix(
    images: Images, partners: Images, share: float, rng: np.random.Generator
) -> tuple[Images, float]:
    """Paste a rectangle of the partners (Yun et al. 2019, arXiv:1905.04899).

    It has the images' aspect ratio and 1 - share of their area, and its center is anywhere; what
    is outside of the image is cut off. Return the share of the pixels that stay as well.
    """
    edges = []
    for side in images.shape[2:]:
        half = int(side * (1 - share) ** 0.5) // 2
        middle = int(rng.integers(side))
        edges.append(slice(max(0, middle - half), min(side, middle + half)))
    rows, columns = edges
    mixed = images.clone()
    mixed[:, :, rows, columns] = partners[:, :, rows, columns]
    pasted = (rows.stop - rows.start) * (columns.stop - columns.start)
    return mixed, 1 - pasted / images[0, 0].numel()


def targets(labels: BatchLabels, share: float) -> Mixed:
    """Return (n, 3): the label with the larger share, the other label, and the larger share."""
    first, second = (labels, labels.flip(0)) if share >= 0.5 else (labels.flip(0), labels)
    shares = torch.full_like(labels, max(share, 1 - share), dtype=torch.float32)
    return torch.stack([first.float(), second.float(), shares], dim=1)
