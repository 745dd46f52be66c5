"""Near-duplicates across splits: images that look alike, such as one photo at two sizes.

Images are compared by a perceptual hash of 63 bits (Zauner 2010, "Implementation and Benchmarking
of Perceptual Image Hash Functions"): a gray image of 32x32 pixels, its discrete cosine transform,
and for each of the lowest frequencies, without the mean, whether it is above their median. Mirror
images and crops have other hashes.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from lab.data import memmap
from lab.data.duplicates import Duplicate
from lab.data.samples import Samples

SIDE = 32  # of the gray image
LOWEST = 8  # frequencies in each direction
LEAST_CONTRAST = 2.0  # standard deviation of the lowest frequencies, of 255; below, images are flat
GRAY = (0.299, 0.587, 0.114)  # ITU-R BT.601, for RGB
CANDIDATES = 1 << 20  # pairs to compare at a time


class NearDuplicate(NamedTuple):
    """A sample that looks like one of an earlier split; `distance` is in bits of the hash."""

    split: str
    sample: str
    label: str
    earlier_split: str
    earlier_sample: str
    earlier_label: str
    distance: int

    def __str__(self) -> str:
        """Name both samples, each with its split, and the distance."""
        later = f"{self.sample!r} of {self.split}"
        return f"{later} and {self.earlier_sample!r} of {self.earlier_split} ({self.distance} bits)"


def across(
    splits: Mapping[str, Samples], largest: int, equal: Sequence[Duplicate]
) -> list[NearDuplicate]:
    """Return each image that looks like one of an earlier split, with the most similar one.

    Their hashes differ in at most `largest` bits. Samples that are in `equal` are left out, and so
    are flat images, which all look alike. The most similar pairs come first.
    """
    known = {(duplicate.split, duplicate.sample) for duplicate in equal}
    names = list(splits)
    hashes = [_hashes(samples) for samples in splits.values()]
    owners = [
        (name, i) for name, own in zip(names, hashes, strict=True) for i in own.indices.tolist()
    ]
    shared = []
    for number in range(1, len(names)):
        earlier = np.concatenate([own.bits for own in hashes[:number]])
        split = names[number]
        samples = splits[split]
        nearest, distances = _nearest(hashes[number].bits, earlier, largest)
        for row in np.flatnonzero(distances <= largest).tolist():
            i = int(hashes[number].indices[row])
            if (split, samples.name(i)) in known:
                continue
            earlier_split, j = owners[nearest[row]]
            other = splits[earlier_split]
            shared.append(
                NearDuplicate(
                    *(split, samples.name(i), samples.label(i)),
                    *(earlier_split, other.name(j), other.label(j)),
                    int(distances[row]),
                )
            )
    return sorted(shared, key=lambda pair: pair.distance)


class _Hashes(NamedTuple):
    """Hashes (n,) uint64 of those images of a split that are not flat, and their indices (n,)."""

    bits: np.ndarray
    indices: np.ndarray


def _hashes(samples: Samples) -> _Hashes:
    """Hash the images a block at a time. What is no image has no hash."""
    if not samples.are_images:
        return _Hashes(np.empty(0, np.uint64), np.empty(0, np.int64))
    height, width = samples.inputs.shape[2:]
    vertical = _cosines(height)
    horizontal = _cosines(width)
    bits = np.empty(len(samples), np.uint64)
    contrast = np.empty(len(samples), np.float32)
    for block in memmap.blocks(len(samples), 4 * samples.inputs[:1].nbytes):
        gray = _gray(samples.inputs[block])
        frequencies = (vertical @ gray @ horizontal.T).reshape(len(gray), -1)[:, 1:]
        above = frequencies > np.median(frequencies, axis=1, keepdims=True)
        packed = np.packbits(above, axis=1)  # 63 bits, and a zero
        bits[block] = packed.view(np.uint64)[:, 0]
        contrast[block] = np.sqrt((frequencies**2).sum(axis=1)) / SIDE
    indices = np.flatnonzero(contrast >= LEAST_CONTRAST)
    return _Hashes(bits[indices], indices)


def _gray(images: np.ndarray) -> np.ndarray:
    """Return the brightness (n, height, width) in 0..255."""
    if images.shape[1] == 3:
        return np.einsum("nchw,c->nhw", images, np.array(GRAY, np.float32))
    return images.mean(axis=1, dtype=np.float32)


def _cosines(length: int) -> np.ndarray:
    """Return a matrix (LOWEST, length): resizes to SIDE by area, then takes cosines (DCT-II)."""
    edges = np.linspace(0, length, SIDE + 1)
    pixels = np.arange(length)
    overlap = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    resize = np.clip(overlap, 0, None) * SIDE / length
    frequencies = np.arange(LOWEST)[:, None]
    cosines = np.cos(np.pi / SIDE * (np.arange(SIDE) + 0.5) * frequencies) * np.sqrt(2 / SIDE)
    cosines[0] /= np.sqrt(2)
    return (cosines @ resize).astype(np.float32)


def _nearest(later: np.ndarray, earlier: np.ndarray, largest: int) -> tuple[np.ndarray, np.ndarray]:
    """Return for each hash the index of the nearest earlier one, and their distance (n,).

    If none is within `largest` bits, the distance is 64.
    """
    unique, first = np.unique(earlier, return_index=True)
    wanted, inverse = np.unique(later, return_inverse=True)
    best = np.full(len(wanted), 64)
    index = np.zeros(len(wanted), np.int64)
    for rows, columns in _candidates(wanted, unique, largest + 1):
        distances = np.bitwise_count(wanted[rows] ^ unique[columns])
        near = np.flatnonzero(distances <= np.minimum(largest, best[rows]))
        candidates = zip(rows[near], distances[near].tolist(), first[columns[near]], strict=True)
        for row, distance, candidate in candidates:
            best[row], index[row] = min((best[row], index[row]), (distance, candidate))
    return index[inverse], best[inverse]


def _candidates(
    later: np.ndarray, earlier: np.ndarray, n_chunks: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield pairs of indices of hashes that agree in a chunk of their bits.

    Of hashes that differ in fewer bits than there are chunks, one chunk is equal.
    """
    borders = np.linspace(0, 64, n_chunks + 1).astype(int)
    for low, high in pairwise(borders.tolist()):
        mask = np.uint64((1 << high) - (1 << low))
        order = np.argsort(earlier & mask, kind="stable")
        chunks = (earlier & mask)[order]
        begins = np.searchsorted(chunks, later & mask, side="left")
        counts = np.searchsorted(chunks, later & mask, side="right") - begins
        totals = np.cumsum(counts)
        start = 0
        while start < len(later):
            done = int(totals[start - 1]) if start else 0
            stop = max(start + 1, int(np.searchsorted(totals, done + CANDIDATES, side="right")))
            own = counts[start:stop]
            rows = np.repeat(np.arange(start, stop), own)
            offsets = np.arange(len(rows)) - np.repeat(np.cumsum(own) - own, own)
            if len(rows):
                yield rows, order[np.repeat(begins[start:stop], own) + offsets]
            start = stop
