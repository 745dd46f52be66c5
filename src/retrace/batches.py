"""A part of the data on the device as two tensors, and batches as look-ups in them: no loader, no workers."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch

from retrace import memmap, paths
from retrace.errors import ParamsError
from retrace.samples import Samples
from retrace.shapes import Inputs, Labels

AHEAD = 4  # batches that are read from the disk while one is used

Augment = Callable[[Inputs, torch.Generator], Inputs]


@dataclass(frozen=True)
class Part:
    """All inputs and labels of a part, on one device."""

    inputs: Inputs
    labels: Labels
    reader: memmap.Reader | None = None  # where the inputs are in a file that memory has no room for

    def __len__(self) -> int:
        return len(self.labels)


def on_device(samples: Samples, device: torch.device) -> Part:
    """All of them, but for what is too large for memory, on a CPU: that stays in its file. Raises ParamsError where a
    GPU's memory has no room for them.
    """
    inputs, reader = samples.inputs, None
    if isinstance(inputs, np.memmap) and device.type == "cpu":
        if memmap.exceeds_memory(inputs.nbytes):
            reader = memmap.Reader(inputs)
        else:
            inputs = np.array(inputs)
    try:
        return Part(torch.from_numpy(inputs).to(device), torch.from_numpy(samples.labels).to(device), reader)
    except torch.OutOfMemoryError:
        said = f"{paths.PARAMS}: the data takes {inputs.nbytes / 1e9:.1f} GB, for which the GPU's memory has no room"
        raise ParamsError(f"{said}; `device: cpu` reads what is too large from the disk") from None


def laid_out(part: Part, size: int) -> Part:
    """As batches of that size are used best: features one by one, with all samples' values, if all are one batch."""
    if len(part) > size or part.inputs.ndim != 2 or part.reader:
        return part
    return Part(part.inputs.T.contiguous().T, part.labels)


def count(part: Part, size: int) -> int:
    """Steps in an epoch."""
    return len(_sizes(len(part), size))


def _sizes(n: int, size: int) -> list[int]:
    """Of the batches of `n` samples; the last may be smaller. One sample alone, which batch norm could not take, goes
    with the batch before.
    """
    whole, rest = divmod(n, size)
    if rest == 1 and whole:
        return [size] * (whole - 1) + [size + 1]
    return [size] * whole + [rest] * (rest > 0)


def shuffled(
    part: Part, size: int, augment: Augment | None, random: torch.Generator, *, seed: int, epoch: int, after: int = 0
) -> Iterator[tuple[Inputs, Labels]]:
    """Every sample once, augmented, but for those of the first `after` batches. (seed, epoch) alone decide how, and
    `random`, which is seeded with them unless it stands as those batches left it. One batch of all has their own order,
    and is the part itself, which nobody may write to, where nothing augments it.
    """
    if len(part) <= size and not part.reader:
        if not after:
            yield augment(part.inputs.clone(), _seeded(random, seed, epoch, 1)) if augment else part.inputs, part.labels
        return
    order = torch.randperm(len(part), generator=_seeded(torch.Generator(), seed, epoch)).to(part.labels.device)
    if augment and not after:
        _seeded(random, seed, epoch, 1)
    ahead = order.split(_sizes(len(part), size))[after:]
    if part.reader:
        part.reader.at_random()
    for number, indices in enumerate(ahead):
        if part.reader:
            for coming in ahead[:AHEAD] if number == 0 else ahead[number + AHEAD - 1 : number + AHEAD]:
                part.reader.expect(coming.tolist())
        # Indexing with brackets gives the same, at a twentieth of the speed on a CPU.
        inputs = part.inputs.index_select(0, indices)
        yield augment(inputs, random) if augment else inputs, part.labels.index_select(0, indices)


def _seeded(random: torch.Generator, *entropy: int) -> torch.Generator:
    """Draws of its own for each number or list of numbers, on the CPU: equal ones on every device."""
    mixed = np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0]
    return random.manual_seed(int(mixed))
