"""The logits of a whole part first; every metric after that is a function of logits and labels."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from statistics import fmean

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - the field's own name for it
from torch import Tensor

from retrace import memmap
from retrace.batches import Split
from retrace.classifier import Classifier
from retrace.shapes import Features, Labels, Logits, Loss

BATCH = {"cpu": 100, "cuda": 2000}  # samples, at most: a processor keeps their maps near, a GPU is kept busy
BATCH_NUMBERS = 4_000_000  # in the inputs of a batch, at most: of 26 images of 224x224 in colour


@dataclass(frozen=True)
class Outputs:
    """What the network makes of each sample, in the part's order, in float32."""

    features: Features
    logits: Logits


@dataclass(frozen=True)
class ClassScore:
    """How well one class is told from the others; precision, recall and F1 in 0..1."""

    name: str
    precision: float
    recall: float
    f1: float
    n_samples: int


def outputs(model: Classifier, part: Split) -> Outputs:
    """The features and logits of every sample; the model is left in evaluation mode."""
    model.eval()
    with torch.no_grad():
        first, *rest = _features(model, part)
        features = torch.cat([first, *rest]) if rest else first
        return Outputs(features, model.head(features))


def features(model: Classifier, part: Split) -> Split:
    """`part` as the head sees it: what a trunk that neither learns nor draws makes of it is the same in every epoch."""
    model.eval()
    with torch.no_grad():
        first = next(rest := _features(model, part))
        made, begin = _room((len(part), *first.shape[1:]), first.device), 0
        for some in chain((first,), rest):
            made[begin : begin + len(some)] = some
            begin += len(some)
    return Split(made, part.labels)


def _features(model: Classifier, part: Split) -> Iterator[Features]:
    """Of the part's samples, batch by batch, in their order."""
    if part.reader:
        part.reader.in_order()
    size = max(1, min(BATCH[part.inputs.device.type], BATCH_NUMBERS // part.inputs[0].numel()))
    batches = part.inputs.split(size) if len(part) > size else [part.inputs]
    return map(model.features, batches)


def _room(shape: tuple[int, ...], device: torch.device) -> Features:
    """For float32 numbers; on the disk, where memory has none."""
    if device.type == "cpu":
        return torch.from_numpy(memmap.empty(shape, np.dtype(np.float32)))
    return torch.empty(shape, device=device)


def loss(logits: Logits, labels: Labels) -> float:
    """`mean_loss` as a number."""
    return mean_loss(logits, labels).item()


def mean_loss(logits: Logits, labels: Labels) -> Loss:
    """The mean cross-entropy, in nats, without smoothing: what training losses are compared by."""
    return F.cross_entropy(logits, labels)


def accuracy(logits: Logits, labels: Labels) -> float:
    """The share of samples whose largest logit is the label's, 0..1."""
    return n_correct(logits, labels).item() / len(labels)


def n_correct(logits: Logits, labels: Labels) -> Tensor:
    """How many samples' largest logit is the label's."""
    # The largest's index and a count, by the calls that take least: `argmax` of strided logits ten times as long.
    return (logits.max(dim=1).indices == labels).count_nonzero()


def by_class(predicted: np.ndarray, labels: np.ndarray, class_names: Sequence[str]) -> list[ClassScore]:
    """A score a class; 0 where a class was never predicted, or never there. The same as scikit-learn's, whose import
    takes longer than the test.
    """
    n = len(class_names)
    said, there, right = (np.bincount(of, minlength=n) for of in (predicted, labels, labels[predicted == labels]))
    precision, recall = right / np.maximum(said, 1), right / np.maximum(there, 1)
    f1 = 2 * right / np.maximum(said + there, 1)
    rows = zip(class_names, precision.tolist(), recall.tolist(), f1.tolist(), there.tolist(), strict=True)
    return [ClassScore(*row) for row in rows]


def averaged(classes: Sequence[ClassScore]) -> dict[str, float]:
    """Precision, recall and F1 as the plain mean over classes, by the names that metrics have everywhere."""
    return {f"test_{kind}": fmean(getattr(score, kind) for score in classes) for kind in ("precision", "recall", "f1")}
