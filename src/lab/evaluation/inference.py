"""Features and logits of a whole split."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
import torch
from torch import Tensor

from lab.data import memmap
from lab.data.batches import FileInputs, Split
from lab.models.classifier import Classifier
from lab.shapes import Features, Inputs, Logits

BATCH = {
    "cpu": 100,
    "cuda": 2000,
    "mps": 2000,
}  # samples at most: a CPU keeps activations in its cache
BATCH_NUMBERS = 4_000_000  # in the inputs of a batch at most: 26 color images of 224x224


# Applies a function to each batch, in order, as `map` does.
Map = Callable[[Callable[[Inputs], Features], Sequence[Tensor]], Iterable[Tensor]]


@dataclass(frozen=True)
class Outputs:
    """Features and logits of each sample, in the split's order, in float32."""

    features: Features
    logits: Logits


def outputs(model: Classifier, split: Split, compute: Map = map) -> Outputs:
    """Return the features and logits of every sample; leave the model in evaluation mode.

    `compute` can share the batches among processes: their borders, and so the bits, stay the same.
    """
    model.eval()
    with torch.no_grad():
        first, *rest = compute(model.features, _batches(split))
        features = torch.cat([first, *rest]) if rest else first
        return Outputs(features, model.head(features))


def features(model: Classifier, split: Split) -> Split:
    """Return the split with the features of evaluation mode as its inputs."""
    model.eval()
    with torch.no_grad():
        rest = map(model.features, _batches(split))
        first = next(rest)
        result = _empty((len(split), *first.shape[1:]), first.device)
        begin = 0
        for batch in chain((first,), rest):
            result[begin : begin + len(batch)] = batch
            begin += len(batch)
    return Split(result, split.labels)


def batch_size(inputs: Inputs | FileInputs) -> int:
    """Return the number of samples that are computed at a time."""
    return max(1, min(BATCH[inputs.device.type], BATCH_NUMBERS // inputs[0].numel()))


def _batches(split: Split) -> Sequence[Tensor]:
    """Return the split's inputs, batch by batch, in order."""
    if split.reader:
        split.reader.in_order()
    size = batch_size(split.inputs)
    return split.inputs.split(size) if len(split) > size else [split.inputs[:]]


def _empty(shape: tuple[int, ...], device: torch.device) -> Features:
    """Return an uninitialized float32 tensor, on disk if it is too large for memory."""
    if device.type == "cpu":
        return torch.from_numpy(memmap.empty(shape, np.dtype(np.float32)))
    return torch.empty(shape, device=device)
