"""Duplicates across splits: scores on them measure memorization."""

import hashlib
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from lab.data.samples import Samples


class Duplicate(NamedTuple):
    """A sample whose input also occurs, byte for byte, in an earlier split."""

    split: str
    sample: str
    label: str
    earlier_split: str
    earlier_sample: str
    earlier_label: str

    def __str__(self) -> str:
        """Name both samples, each with its split."""
        return (
            f"{self.sample!r} of {self.split} and {self.earlier_sample!r} of {self.earlier_split}"
        )


def across(splits: Mapping[str, Samples]) -> list[Duplicate]:
    """Return each sample whose input an earlier split has too, with the first equal sample.

    Labels are not compared.
    """
    names = list(splits)
    digests = np.concatenate([_digests(samples.inputs) for samples in splits.values()])
    ends = np.cumsum([len(samples) for samples in splits.values()])
    first = _first_equal(digests)
    split = np.searchsorted(ends, np.arange(len(first)), side="right")
    earlier = np.searchsorted(ends, first, side="right")

    def describe(which: int, i: int) -> tuple[str, str, str]:
        samples = splits[names[which]]
        index = i - int(ends[which]) + len(samples)
        return names[which], samples.name(index), samples.label(index)

    shared = np.flatnonzero(split > earlier)
    return [
        Duplicate(*describe(split[i], i), *describe(earlier[i], int(first[i])))
        for i in shared.tolist()
    ]


def _first_equal(digests: np.ndarray) -> np.ndarray:
    """Return for each digest the index of the first that equals it."""
    order = np.argsort(digests, kind="stable")
    is_first = np.ones(len(order), dtype=bool)
    is_first[1:] = digests[order][1:] != digests[order][:-1]
    first = np.empty_like(order)
    first[order] = order[is_first][np.cumsum(is_first) - 1]
    return first


def _digests(inputs: np.ndarray) -> np.ndarray:
    """Hash each input to 16 bytes."""
    digests = (hashlib.blake2b(row, digest_size=16).digest() for row in inputs)
    return np.frombuffer(b"".join(digests), "S16")
