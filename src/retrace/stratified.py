"""Which samples go where, with every class in the same proportion: the parts that scikit-learn gives for the same seed.

In numpy, since importing scikit-learn takes longer than preprocessing MNIST.
"""

import math

import numpy as np


def split(labels: np.ndarray, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices of the samples kept and of those taken, `fraction` of them, rounded up; each ascending. They are
    `train_test_split`'s. Raises ValueError where a part would have fewer samples than there are classes.
    """
    if not len(labels):
        raise ValueError("there are none")
    _, inverse, counts = np.unique(labels, return_inverse=True, return_counts=True)
    n_taken = math.ceil(fraction * len(labels))
    for n, what in ((n_taken, "taken"), (len(labels) - n_taken, "kept")):
        if n < len(counts):
            raise ValueError(f"{n} would be {what}, of {len(counts)} classes")
    random = np.random.RandomState(seed)
    n_kept_each = _shares(counts, len(labels) - n_taken, random)
    n_taken_each = _shares(counts - n_kept_each, n_taken, random)
    kept, taken = [], []
    by_class = np.split(np.argsort(inverse, kind="stable"), np.cumsum(counts)[:-1])
    for members, first, second in zip(by_class, n_kept_each, n_taken_each, strict=True):
        drawn = members[random.permutation(len(members))]
        kept.append(drawn[:first])
        taken.append(drawn[first : first + second])
    return np.sort(np.concatenate(kept)), np.sort(np.concatenate(taken))


def folds(labels: np.ndarray, n: int, seed: int) -> np.ndarray:
    """The fold of each sample, 0 to `n` - 1; they are those of `StratifiedKFold` with `shuffle`."""
    _, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    by_appearance = np.argsort(np.argsort(first))[inverse]
    in_order = np.sort(by_appearance)
    counts = np.array([np.bincount(in_order[fold::n], minlength=len(first)) for fold in range(n)])
    random = np.random.RandomState(seed)
    dealt = np.empty(len(labels), np.int64)
    for label in range(len(first)):
        own = np.arange(n).repeat(counts[:, label])
        random.shuffle(own)
        dealt[by_appearance == label] = own
    return dealt


def _shares(counts: np.ndarray, n: int, random: np.random.RandomState) -> np.ndarray:
    """`n` divided among classes by their counts; what rounding down leaves goes to those that it took most from, and
    is drawn where it took the same.
    """
    exact = counts / counts.sum() * n
    shares = np.floor(exact)
    lost = exact - shares
    for most in np.unique(lost)[::-1]:
        left = n - int(shares.sum())
        if not left:
            break
        equal = np.flatnonzero(lost == most)
        shares[random.choice(equal, size=min(left, len(equal)), replace=False)] += 1
    return shares.astype(np.int64)
