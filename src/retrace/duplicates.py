"""Samples that two parts share: a score on them says how much was learned by heart."""

import hashlib
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from retrace.samples import Samples


class Duplicate(NamedTuple):
    """A sample whose input is in an earlier part too, to the byte."""

    part: str
    sample: str
    label: str
    earlier_part: str
    earlier_sample: str
    earlier_label: str


def across(parts: Mapping[str, Samples]) -> list[Duplicate]:
    """Every sample that an earlier one of `parts` has too, whatever its label there, with the first that equals it."""
    digests = np.concatenate([_digests(samples.inputs) for samples in parts.values()])
    ends = np.cumsum([len(samples) for samples in parts.values()])
    order = np.argsort(digests, kind="stable")
    is_first = np.ones(len(order), dtype=bool)
    is_first[1:] = digests[order][1:] != digests[order][:-1]
    first = np.empty_like(order)  # of all samples equal to each
    first[order] = order[is_first][np.cumsum(is_first) - 1]
    part, earlier = (np.searchsorted(ends, which, side="right") for which in (np.arange(len(first)), first))
    described = [_described(name, samples, end) for (name, samples), end in zip(parts.items(), ends, strict=True)]
    shared = np.flatnonzero(part > earlier)
    return [Duplicate(*described[part[i]](i), *described[earlier[i]](first[i])) for i in shared]


def _digests(inputs: np.ndarray) -> np.ndarray:
    """Of each input, in 16 bytes."""
    return np.frombuffer(b"".join(hashlib.blake2b(row, digest_size=16).digest() for row in inputs), "S16")


def _described(part: str, samples: Samples, end: int) -> Callable[[int], tuple[str, str, str]]:
    """Of a number among the samples of all parts, whose own end at `end`, what there is to say."""
    begin = end - len(samples)
    return lambda i: (part, samples.name(i - begin), samples.label(i - begin))
