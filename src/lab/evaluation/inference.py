"""Logits of a whole split, and metrics, which are functions of logits and labels."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from statistics import fmean

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - the field's own name for it
from torch import Tensor

from lab.data import memmap
from lab.data.batches import Split
from lab.models.classifier import Classifier
from lab.shapes import Features, Labels, Logits, Loss

BATCH = {"cpu": 100, "cuda": 2000}  # samples at most: a CPU keeps activations in its cache
BATCH_NUMBERS = 4_000_000  # in the inputs of a batch at most: 26 color images of 224x224


@dataclass(frozen=True)
class Outputs:
    """Features and logits of each sample, in the split's order, in float32."""

    features: Features
    logits: Logits


@dataclass(frozen=True)
class ClassScore:
    """Precision, recall and F1 of one class against the others, 0..1."""

    name: str
    precision: float
    recall: float
    f1: float
    n_samples: int


def outputs(model: Classifier, split: Split) -> Outputs:
    """Return the features and logits of every sample; leave the model in evaluation mode."""
    model.eval()
    with torch.no_grad():
        first, *rest = _features(model, split)
        features = torch.cat([first, *rest]) if rest else first
        return Outputs(features, model.head(features))


def features(model: Classifier, split: Split) -> Split:
    """Return the split with the backbone's features, in evaluation mode, in place of its inputs."""
    model.eval()
    with torch.no_grad():
        rest = _features(model, split)
        first = next(rest)
        result = _empty((len(split), *first.shape[1:]), first.device)
        begin = 0
        for batch in chain((first,), rest):
            result[begin : begin + len(batch)] = batch
            begin += len(batch)
    return Split(result, split.labels)


def _features(model: Classifier, split: Split) -> Iterator[Features]:
    """Yield the features of the split's samples, batch by batch, in order."""
    if split.reader:
        split.reader.in_order()
    size = max(1, min(BATCH[split.inputs.device.type], BATCH_NUMBERS // split.inputs[0].numel()))
    batches = split.inputs.split(size) if len(split) > size else [split.inputs]
    return map(model.features, batches)


def _empty(shape: tuple[int, ...], device: torch.device) -> Features:
    """Return an uninitialized float32 tensor, on disk if it is too large for memory."""
    if device.type == "cpu":
        return torch.from_numpy(memmap.empty(shape, np.dtype(np.float32)))
    return torch.empty(shape, device=device)


def loss(logits: Logits, labels: Labels) -> float:
    """Return `mean_loss` as a number."""
    return mean_loss(logits, labels).item()


def mean_loss(logits: Logits, labels: Labels) -> Loss:
    """Return the mean cross-entropy, in nats, without smoothing."""
    return F.cross_entropy(logits, labels)


def accuracy(logits: Logits, labels: Labels) -> float:
    """Return the share of samples whose largest logit is the label's, 0..1."""
    return n_correct(logits, labels).item() / len(labels)


def n_correct(logits: Logits, labels: Labels) -> Tensor:
    """Count the samples whose largest logit is the label's."""
    # `argmax` of strided logits takes ten times as long as `max`.
    return (logits.max(dim=1).indices == labels).count_nonzero()


def by_class(
    predicted: np.ndarray, labels: np.ndarray, class_names: Sequence[str]
) -> list[ClassScore]:
    """Return a score for each class: 0 if it was never predicted, or has no sample.

    The same as scikit-learn's, whose import takes longer than the test.
    """
    n = len(class_names)
    n_predicted = np.bincount(predicted, minlength=n)
    n_samples = np.bincount(labels, minlength=n)
    n_correct = np.bincount(labels[predicted == labels], minlength=n)
    precision = n_correct / np.maximum(n_predicted, 1)
    recall = n_correct / np.maximum(n_samples, 1)
    f1 = 2 * n_correct / np.maximum(n_predicted + n_samples, 1)
    rows = zip(
        class_names,
        precision.tolist(),
        recall.tolist(),
        f1.tolist(),
        n_samples.tolist(),
        strict=True,
    )
    return [ClassScore(*row) for row in rows]


def averaged(classes: Sequence[ClassScore]) -> dict[str, float]:
    """Return the unweighted means over classes, by the names that metrics have everywhere."""
    return {
        f"test_{kind}": fmean(getattr(score, kind) for score in classes)
        for kind in ("precision", "recall", "f1")
    }
