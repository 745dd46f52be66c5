"""A split as two tensors on the device. Batches are gathered by index, without a DataLoader."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import overload

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from lab import paths
from lab.data import memmap
from lab.data.samples import Samples
from lab.params import Sampling, Train
from lab.shapes import BatchLabels, Images, Inputs, Labels
from retrace.errors import ParamsError

AHEAD = 4  # batches that are read from the disk while one is used

ALL = slice(None)
Part = Callable[[int], slice | Tensor]  # which of the n samples of a batch are read
Numbers = Float[Tensor, "image 1"]
Integers = Int[Tensor, "image 1"]


@dataclass(frozen=True)
class Draws:
    """Random numbers for the images of a batch, drawn on the CPU: every device gets the same.

    They are drawn for the whole batch; `kept` are the positions of the images that this process
    reads, so that an image is augmented in the same way by any number of processes.
    """

    generator: torch.Generator
    n_images: int  # of the whole batch
    kept: slice | Tensor

    def below(self, end: int, device: torch.device) -> Integers:
        """Draw an integer in 0..end-1 for each image."""
        integers = torch.randint(end, (self.n_images, 1), generator=self.generator)
        return integers[self.kept].to(device, non_blocking=True)

    def uniform(self, device: torch.device) -> Numbers:
        """Draw a number in 0..1 for each image."""
        numbers = torch.rand(self.n_images, 1, generator=self.generator)
        return numbers[self.kept].to(device, non_blocking=True)

    def numbers(self, n: int) -> np.ndarray:
        """Draw `n` numbers in 0..1 for each image, for calculations of the host."""
        kept = self.kept if isinstance(self.kept, slice) else self.kept.numpy()
        return numpy_rng(self.generator).random((self.n_images, n))[kept]


Augment = Callable[[Inputs, Draws], Inputs]


class FileInputs:
    """Inputs that stay in their files, with what a split needs of a tensor."""

    device = torch.device("cpu")

    def __init__(self, parts: Sequence[np.memmap]) -> None:
        self._rows = memmap.Shards(parts)
        self.reader = memmap.Reader(parts)
        self.shape = torch.Size(self._rows.shape)
        self.ndim = self._rows.ndim

    def __getitem__(self, key: int | slice) -> Tensor:
        return torch.from_numpy(self._rows[key])

    def index_select(self, _: int, indices: Tensor) -> Tensor:
        """Copy the inputs with these indices."""
        return torch.from_numpy(self._rows[indices.numpy()])

    def split(self, size: int) -> "FileBatches":
        """Return the inputs in order, `size` at a time."""
        return FileBatches(self, size, range(0, len(self._rows), size))


class FileBatches(Sequence[Tensor]):
    """Inputs in batches, each copied from its file when it is used."""

    def __init__(self, inputs: FileInputs, size: int, firsts: range) -> None:
        self._inputs = inputs
        self._size = size
        self._firsts = firsts

    def __len__(self) -> int:
        return len(self._firsts)

    @overload
    def __getitem__(self, key: int) -> Tensor: ...
    @overload
    def __getitem__(self, key: slice) -> "FileBatches": ...
    def __getitem__(self, key: int | slice) -> "Tensor | FileBatches":
        if isinstance(key, slice):
            return FileBatches(self._inputs, self._size, self._firsts[key])
        first = self._firsts[key]
        return self._inputs[first : first + self._size]


@dataclass(frozen=True)
class Split:
    """All inputs and labels of a split (train, validation or test), on one device."""

    inputs: Inputs | FileInputs
    labels: Labels

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def reader(self) -> memmap.Reader | None:
        """What reads ahead, if the inputs stay in files because they exceed the memory."""
        return self.inputs.reader if isinstance(self.inputs, FileInputs) else None


def on_device(samples: Samples, device: torch.device) -> Split:
    """Copy all samples to the device; on a CPU, inputs too large for memory stay in their files.

    Raises ParamsError if they are too large for a GPU's memory.
    """
    inputs = samples.inputs
    labels = torch.from_numpy(samples.labels)
    parts = inputs.parts if isinstance(inputs, memmap.Shards) else [inputs]
    maps = [part for part in parts if isinstance(part, np.memmap)]
    if maps and device.type == "cpu" and memmap.exceeds_memory(inputs.nbytes):
        return Split(FileInputs(maps), labels)
    try:
        return Split(_copied(parts, device), labels.to(device))
    except torch.OutOfMemoryError:
        gigabytes = inputs.nbytes / 1e9
        raise ParamsError(
            f"{paths.PARAMS}: the data ({gigabytes:.1f} GB) does not fit into the GPU's memory; "
            "with `device: cpu`, data that exceeds the memory is read from disk"
        ) from None


def _copied(parts: Sequence[np.ndarray], device: torch.device) -> Inputs:
    """Copy arrays to the device, one after the other."""
    tensors = [torch.from_numpy(part) for part in parts]
    sizes = [len(tensor) for tensor in tensors]
    rows = torch.empty((sum(sizes), *tensors[0].shape[1:]), dtype=tensors[0].dtype, device=device)
    for target, tensor in zip(rows.split(sizes), tensors, strict=True):
        target.copy_(tensor)
    return rows


def center(images: Images, size: Sequence[int]) -> Tensor:
    """Return a view of the center of images; `size` is its height and width in pixels."""
    if images.shape[2:] == size:
        return images
    height, width = size
    top, left = ((edge - side) // 2 for edge, side in zip(images.shape[2:], size, strict=True))
    return images[:, :, top : top + height, left : left + width]


def laid_out(split: Split, size: int) -> Split:
    """Return the split in the layout that is fastest for batches of that size.

    If one batch holds all samples, features are stored column by column.
    """
    inputs = split.inputs
    if len(split) > size or inputs.ndim != 2 or isinstance(inputs, FileInputs):
        return split
    return Split(inputs.T.contiguous().T, split.labels)


def count(split: Split, size: int) -> int:
    """Return the number of batches in an epoch."""
    return len(sizes(len(split), size))


def sizes(n: int, size: int) -> list[int]:
    """Return the sizes of the batches of `n` samples; the last may be smaller.

    A single sample, which batch norm cannot take, joins the batch before it.
    """
    n_full, rest = divmod(n, size)
    if rest == 1 and n_full:
        return [size] * (n_full - 1) + [size + 1]
    return [size] * n_full + [rest] * (rest > 0)


def parts(n: int, n_parts: int) -> list[slice]:
    """Return slices that cover `n` rows; their lengths differ by one at most."""
    ends = [number * n // n_parts for number in range(n_parts + 1)]
    return [slice(begin, end) for begin, end in pairwise(ends)]


def accumulated(n: int, n_batch: int, p: Train) -> list[slice]:
    """Return the parts in which a process computes its `n` samples of a batch of `n_batch`.

    There are `accumulation` of them; a smaller last batch has fewer parts of about the same size.
    All processes have the same number of parts: on GPUs they compute batch norm together.
    """
    size = -(-p.batch_size // (p.processes * p.accumulation))
    smallest = n_batch // p.processes  # of the processes' slices, which differ by one at most
    largest = -(-n_batch // p.processes)
    return parts(n, max(1, min(p.accumulation, -(-largest // size), smallest)))


def rows(tensor: Tensor, kept: slice) -> Tensor:
    """Return some rows of a tensor; all of them without the cost of a view."""
    return tensor if kept == slice(0, len(tensor)) else tensor[kept]


def shuffled(
    split: Split,
    size: int,
    augment: Augment | None,
    generator: torch.Generator,
    *,
    seed: int,
    epoch: int,
    after: int = 0,
    part: Part = lambda _: ALL,
    sampling: Sampling = "shuffled",
) -> Iterator[tuple[Inputs, BatchLabels]]:
    """Yield an epoch's batches in random order, augmented, without the first `after` ones.

    Of a batch of n samples, read and yield only the inputs `part(n)`, but all labels. The order is
    a function of (seed, epoch). `generator` draws the augmentation, and what the caller draws for
    each batch; it is seeded with both, too. With `after`, it must already be in the state after
    the skipped batches.

    If one batch holds all samples, they keep their order, unless they are drawn by class. Without
    augmentation that batch is the split itself, which must not be written to.
    """
    if not after:
        _seeded(generator, seed, epoch, 1)
    is_drawn = sampling == "balanced"
    if len(split) <= size and not is_drawn and not isinstance(split.inputs, FileInputs):
        yield from [] if after else [_whole(split.inputs, split.labels, augment, generator)]
        return
    own = _seeded(torch.Generator(), seed, epoch)
    order = balanced(split.labels, own) if is_drawn else torch.randperm(len(split), generator=own)
    left = order.to(split.labels.device).split(sizes(len(split), size))[after:]
    for indices in _read_ahead(split.reader, left, part) if split.reader else left:
        kept = part(len(indices))
        # Indexing with brackets does the same, at a twentieth of the speed on a CPU.
        inputs = split.inputs.index_select(0, indices[kept])
        labels = split.labels.index_select(0, indices)
        yield augment(inputs, Draws(generator, len(indices), kept)) if augment else inputs, labels


def _whole(
    inputs: Inputs, labels: Labels, augment: Augment | None, generator: torch.Generator
) -> tuple[Inputs, BatchLabels]:
    """Return all samples as one batch, augmented."""
    if augment is None:
        return inputs, labels
    return augment(inputs.clone(), Draws(generator, len(labels), ALL)), labels


def balanced(labels: Labels, generator: torch.Generator) -> Labels:
    """Draw as many indices as there are labels: first a class, then one of its samples.

    All classes that occur have the same probability. An index can be drawn several times.
    """
    labels = labels.cpu()
    counts = labels.bincount()
    present = counts.nonzero().flatten()
    by_class = labels.argsort(stable=True)
    classes = present[torch.randint(len(present), (len(labels),), generator=generator)]
    within = torch.rand(len(labels), generator=generator, dtype=torch.float64)
    firsts = counts.cumsum(0) - counts
    return by_class[firsts[classes] + (within * counts[classes]).long()]


def numpy_rng(generator: torch.Generator) -> np.random.Generator:
    """Return a generator of numbers for the host, seeded with a number of torch's generator."""
    seed = torch.randint(2**63 - 1, (1,), generator=generator)
    return np.random.default_rng(int(seed))


def _read_ahead(reader: memmap.Reader, batches: Sequence[Tensor], part: Part) -> Iterator[Tensor]:
    """Yield each batch's indices, while the inputs of the next ones are read from the disk."""
    reader.at_random()
    for number, indices in enumerate(batches):
        first = 0 if number == 0 else number + AHEAD - 1
        for expected in batches[first : number + AHEAD]:
            reader.expect(expected[part(len(expected))].tolist())
        yield indices


def _seeded(generator: torch.Generator, *entropy: int) -> torch.Generator:
    """Seed a CPU generator with a mix of numbers, so that every device gets the same draws."""
    seed = np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0]
    return generator.manual_seed(int(seed))
