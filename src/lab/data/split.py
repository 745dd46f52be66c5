"""The train, validation and test splits of a data set, stratified by class."""

import math
from collections.abc import Sequence

import numpy as np
from sklearn.model_selection import StratifiedKFold, train_test_split

from lab import paths
from lab.data import memmap
from lab.data.samples import Samples, Splits
from lab.params import Preprocess
from retrace.errors import DataError, ParamsError

LEAST = {"validation_fraction": 2, "test_fraction": 3}  # samples of a class, for all splits


def split(raw: Splits, p: Preprocess) -> tuple[Samples, Samples, Samples]:
    """Return the train, validation and test split, in the order of the data set.

    Splits that the data set already has are kept. Otherwise the test split is taken from train
    first; then `class_shares` subsamples the rest; then validation is taken from it, one of `folds`
    or a fraction. Folds cover train and the data set's own validation split together. Raises
    DataError if a class has too few samples.
    """
    samples, validation, test, _ = raw
    indices = np.arange(len(samples))
    if test is None:
        indices, taken = _split_off(samples, indices, p.test_fraction, p, "test_fraction")
        test = samples.take(taken)
    indices = _subsample(samples, indices, p.class_shares, p.split_seed)
    if p.folds > 1:
        train, validation = _fold(samples.take(indices), validation, p)
        return train, validation, test
    if validation is None:
        indices, taken = _split_off(
            samples, indices, p.validation_fraction, p, "validation_fraction"
        )
        validation = samples.take(taken)
    return samples.take(indices), validation, test


def _split_off(
    samples: Samples, indices: np.ndarray, fraction: float, p: Preprocess, key: str
) -> tuple[np.ndarray, np.ndarray]:
    """Divide `indices` into the rest and `fraction` of them, both in ascending order."""
    labels = samples.labels[indices]
    try:
        divided = train_test_split(
            indices, test_size=fraction, random_state=p.split_seed, stratify=labels
        )
    except ValueError:
        raise DataError(_too_few(samples, labels, fraction, p, key)) from None
    rest, taken = map(np.sort, divided)
    for side in (rest, taken):
        if len(np.setdiff1d(labels, samples.labels[side])):
            raise DataError(_too_few(samples, labels, fraction, p, key))
    return rest, taken


def _too_few(samples: Samples, labels: np.ndarray, fraction: float, p: Preprocess, key: str) -> str:
    """Name the class with the fewest samples, and a fraction with which it is in both sides."""
    present, counts = np.unique(labels, return_counts=True)
    fewest = counts.min()
    name = samples.class_names[present[counts.argmin()]]
    remedy = "add samples of it"
    if p.class_shares:
        remedy += ", or raise its share in class_shares"
    if fewest >= LEAST[key]:
        enough = math.ceil(100 * max(1 / fewest, len(present) / len(labels))) / 100
        remedy = f"use -S {key}={enough:g}, or {remedy}"
    state = f"{key} is {fraction:g}, and of {len(labels):,} samples class {name} has {fewest}"
    return f"{paths.PARAMS}: {state}, too few for a stratified split; {remedy}"


def _subsample(
    samples: Samples, indices: np.ndarray, shares: Sequence[float], seed: int
) -> np.ndarray:
    """Keep a random share of each class, at least one sample."""
    if not shares:
        return indices
    n_classes = len(samples.class_names)
    if len(shares) != n_classes:
        needed = f"should have {n_classes}, one per class"
        raise ParamsError(f"{paths.PARAMS}: class_shares has {len(shares)} numbers; {needed}")
    random = np.random.default_rng(seed)
    labels = samples.labels[indices]
    kept = []
    for label, share in enumerate(shares):
        members = np.flatnonzero(labels == label)
        kept.append(random.permutation(members)[: max(1, round(share * len(members)))])
    return indices[np.sort(np.concatenate(kept))]


def _fold(train: Samples, validation: Samples | None, p: Preprocess) -> tuple[Samples, Samples]:
    """Return the training samples (all other folds) and the validation samples (fold `p.fold`)."""
    samples = train if validation is None else _concatenate(train, validation)
    counts = np.bincount(samples.labels, minlength=len(samples.class_names))
    if (n := counts.min()) < p.folds:
        name = samples.class_names[counts.argmin()]
        remedy = f"lower folds to {max(n, 1)}, or add samples of the class"
        state = f"folds is {p.folds}, but class {name} has {n} samples"
        raise DataError(f"{paths.PARAMS}: {state}; {remedy}")
    folds = StratifiedKFold(p.folds, shuffle=True, random_state=p.split_seed)
    rest, taken = list(folds.split(samples.labels, samples.labels))[p.fold]
    return samples.take(rest), samples.take(taken)


def _concatenate(first: Samples, second: Samples) -> Samples:
    """Return the samples of both."""
    names = None
    if first.names is not None and second.names is not None:
        names = np.concatenate([first.names, second.names])
    shape = (len(first) + len(second), *first.inputs.shape[1:])
    inputs = memmap.empty(shape, first.inputs.dtype)
    np.concatenate([first.inputs, second.inputs], out=inputs)
    labels = np.concatenate([first.labels, second.labels])
    return Samples(inputs, labels, first.class_names, names, first.resize)
