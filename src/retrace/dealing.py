"""Which sample belongs to which part."""

from collections.abc import Sequence

import numpy as np

from retrace import memmap, paths, stratified
from retrace.errors import DataError, ParamsError
from retrace.params import Preprocess
from retrace.samples import Parts, Samples


def deal(parts: Parts, p: Preprocess) -> tuple[Samples, Samples, Samples]:
    """Train, validation and test, each with every class in the same proportion; the order is the data set's.

    Parts that the data set brings are left alone. Otherwise test is taken from train first; then `class_shares` thins
    what is left; then validation is taken from it, one of `folds` or a fraction. Folds are made of train and of the
    data set's own validation part together. Raises DataError where a class has too few samples.
    """
    whole, validation, test, _ = parts
    kept = np.arange(len(whole))
    if test is None:
        kept, taken = _set_apart(whole, kept, p.test_fraction, p.split_seed)
        test = whole.take(taken)
    kept = _thinned(whole, kept, p.class_shares, p.split_seed)
    if p.folds > 1:
        train, validation = _folded(whole.take(kept), validation, p)
        return train, validation, test
    if validation is None:
        kept, taken = _set_apart(whole, kept, p.validation_fraction, p.split_seed)
        validation = whole.take(taken)
    return whole.take(kept), validation, test


def _set_apart(samples: Samples, among: np.ndarray, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Of the samples with those indices, the ones that stay, and `fraction` of them."""
    try:
        kept, taken = stratified.split(samples.labels[among], fraction, seed)
    except ValueError as error:
        raise DataError(f"{fraction} of {len(among)} samples can't be set apart class by class: {error}") from None
    for part in (among[kept], among[taken]):
        if len(lacking := np.setdiff1d(samples.labels[among], samples.labels[part])):
            name = samples.class_names[lacking[0]]
            raise DataError(f"class {name} has too few samples for {fraction} of {len(among)} to be set apart")
    return among[kept], among[taken]


def _thinned(samples: Samples, among: np.ndarray, shares: Sequence[float], seed: int) -> np.ndarray:
    """Of those indices a random share of each class, at least one."""
    if not shares:
        return among
    if len(shares) != len(samples.class_names):
        n = len(samples.class_names)
        raise ParamsError(f"{paths.PARAMS}: class_shares has {len(shares)} numbers; should have one a class, {n}")
    random = np.random.default_rng(seed)
    labels, kept = samples.labels[among], []
    for label, share in enumerate(shares):
        members = np.flatnonzero(labels == label)
        kept.append(random.permutation(members)[: max(1, round(share * len(members)))])
    return among[np.sort(np.concatenate(kept))]


def _folded(train: Samples, validation: Samples | None, p: Preprocess) -> tuple[Samples, Samples]:
    """All of both but fold `p.fold`, and that fold."""
    samples = train if validation is None else _joined(train, validation)
    counts = np.bincount(samples.labels, minlength=len(samples.class_names))
    if (n := counts.min()) < p.folds:
        name = samples.class_names[counts.argmin()]
        raise DataError(f"class {name} has {n} samples, fewer than the {p.folds} folds; lower folds")
    is_taken = stratified.folds(samples.labels, p.folds, p.split_seed) == p.fold
    return samples.take(np.flatnonzero(~is_taken)), samples.take(np.flatnonzero(is_taken))


def _joined(first: Samples, second: Samples) -> Samples:
    names = None if first.names is None or second.names is None else np.concatenate([first.names, second.names])
    inputs = memmap.empty((len(first) + len(second), *first.inputs.shape[1:]), first.inputs.dtype)
    np.concatenate([first.inputs, second.inputs], out=inputs)
    return Samples(inputs, np.concatenate([first.labels, second.labels]), first.class_names, names, first.resize)
