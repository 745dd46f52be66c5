"""Samples that two parts share: a score on them says how much was learned by heart."""

import hashlib
from collections.abc import Mapping
from typing import NamedTuple

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
    seen: dict[bytes, tuple[str, str, str]] = {}
    found = []
    for part, samples in parts.items():
        digests = [hashlib.blake2b(row, digest_size=16).digest() for row in samples.inputs]
        described = {index: (part, samples.name(index), samples.label(index)) for index in range(len(samples))}
        found += [Duplicate(*described[i], *seen[digest]) for i, digest in enumerate(digests) if digest in seen]
        for index, digest in enumerate(digests):
            seen.setdefault(digest, described[index])
    return found
