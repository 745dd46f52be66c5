"""Several processes that train together: each computes its slice of every batch.

All of them hold the whole model and optimizer. Between backward and the optimizer's step, gradients
are summed over the processes in one message, so every process makes the same step: results are a
function of seed and number of processes. On a CPU, batch norm normalizes by a process's own slice.

The only module that knows torch.distributed, and its private functional collectives: these are safe
in a CUDA graph, `all_reduce` in place is not. DistributedDataParallel is not used: it sums in
another order after each start, so that a resumed training would have other bits.
"""

import os
import signal
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from lab import paths
from lab.data import batches
from lab.data.batches import Split
from lab.models.classifier import Classifier
from lab.params import AUTO, Train
from lab.shapes import Features, Inputs, Loss
from lab.training import optimizers
from lab.training.device import Compute
from lab.training.state import Pending
from retrace.errors import Deferred, ParamsError, Terminated

STORE = "RETRACE_RANKS"  # variable of ranks that `launcher` starts: the URL at which they meet
# Their functions in torch.distributed._functional_collectives import the compiler: seconds a rank.
OPERATIONS = torch.ops._c10d_functional
SIGNALS = (signal.SIGINT, signal.SIGTERM)
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
OWN_STATISTICS = (
    "batch norm: each process normalizes by its own slice of a batch; "
    "running statistics are those of process 0"
)


class Group:
    """The processes of one training. This one is number `rank` of `size`, counted from 0.

    Where `size` is 1, every method does what one process would do without it.
    """

    def __init__(self, rank: int, size: int, device: torch.device) -> None:
        self.rank = rank
        self.size = size
        self._device = device
        self._stop = torch.zeros((), device=device)  # 1 once this process is to stop
        self._n_stops = torch.zeros((), device=device)  # of all processes, in the last step
        self._pending: Pending | None = None

    @property
    def is_first(self) -> bool:
        """Whether this process tracks the run and writes all files."""
        return self.rank == 0

    def part(self, n: int) -> slice:
        """Return which of `n` samples are this process's slice; slices differ by one at most."""
        return self._parts(n)[self.rank]

    def sum(
        self, optimizer: torch.optim.Optimizer, loss: Loss, n_correct: Tensor
    ) -> tuple[Loss, Tensor]:
        """Sum the optimizer's gradients over all processes. Return the sums of the arguments."""
        if self.size == 1:
            return loss, n_correct
        weights = optimizers.weights_of(optimizer)
        gradients = [weight.grad for weight in weights if weight.grad is not None]
        numbers = torch.stack([loss, n_correct.to(loss.dtype), self._stop])
        flat = torch.cat([*(gradient.flatten() for gradient in gradients), numbers])
        world = dist.group.WORLD.group_name  # pyright: ignore[reportOptionalMemberAccess]
        flat = OPERATIONS.wait_tensor(OPERATIONS.all_reduce(flat, "sum", world))
        *sums, numbers = flat.split([*(gradient.numel() for gradient in gradients), 3])
        for gradient, values in zip(gradients, sums, strict=True):
            gradient.copy_(values.view_as(gradient))
        loss, n_correct, n_stops = numbers.clone()  # else they keep all gradients in memory
        self._n_stops.copy_(n_stops)
        return loss, n_correct.to(torch.int64)

    def answer(self, signals: Deferred) -> None:
        """Raise the exception of a signal, in all processes after the same step.

        A signal is sent to the others in the next step's sum, and answered in the step after.
        """
        if self.size == 1:
            signals.answer()
            return
        if signals.arrived:
            self._stop.fill_(1)
        before = self._pending
        self._pending = Pending(0, self._n_stops.clone())
        if before and before.read():
            signals.answer()
            raise Terminated

    def seed(self, seed: int, step: int) -> None:
        """Seed torch's generator, which draws dropout, for a step of this process.

        So the streams of all processes are resumed without being saved.
        """
        if self.size > 1:
            mixed = np.random.SeedSequence((seed, self.rank, step)).generate_state(1, np.uint64)
            torch.manual_seed(int(mixed[0]))

    def map(
        self, function: Callable[[Inputs], Features], batches: Sequence[Tensor]
    ) -> Iterable[Tensor]:
        """Apply a function to batches, each in one of the processes. Return all results, in order.

        A result has a row for each row of its batch.
        """
        if self.size == 1 or len(batches) < self.size:
            return map(function, batches)
        mine = torch.cat([function(batch) for batch in batches[self.part(len(batches))]])
        # Not of all batches: they may have to be read from files.
        lengths = [len(batches[0])] * (len(batches) - 1) + [len(batches[-1])]
        n_rows = [sum(lengths[part]) for part in self._parts(len(batches))]
        padded = mine.new_zeros((max(n_rows), *mine.shape[1:]))
        padded[: len(mine)] = mine
        gathered = [torch.empty_like(padded) for _ in n_rows]
        dist.all_gather(gathered, padded)
        return [rows[:n] for rows, n in zip(gathered, n_rows, strict=True)]

    def copy_first(self, tensors: Iterable[Tensor]) -> None:
        """Replace tensors by those of the first process."""
        if self.size == 1:
            return
        for tensor in tensors:
            first = tensor.detach().contiguous()
            dist.broadcast(first, 0)
            with torch.no_grad():
                tensor.copy_(first)

    def broadcast(self, content: bytes) -> bytes:
        """Return the first process's bytes in every process."""
        size = torch.tensor(len(content), device=self._device)
        self.copy_first([size])
        if not size:
            return b""
        values = torch.zeros(int(size), dtype=torch.uint8, device=self._device)
        if self.is_first:
            values.copy_(torch.frombuffer(bytearray(content), dtype=torch.uint8))
        self.copy_first([values])
        return values.cpu().numpy().tobytes()

    def _parts(self, n: int) -> list[slice]:
        """Return the slices of all processes."""
        return batches.parts(n, self.size)

    def prepare(self, model: Classifier) -> None:
        """Give the model the first process's weights; synchronize its batch norm on GPUs."""
        if self.size == 1:
            return
        trained = model.head if model.keeps_statistics else model
        norms = [layer for layer in trained.modules() if isinstance(layer, NORMS)]
        are_plain = all(type(layer).forward is nn.BatchNorm2d.forward for layer in norms)
        if norms and are_plain and self._device.type == "cuda":
            nn.SyncBatchNorm.convert_sync_batchnorm(model)  # it replaces the layers in place
        elif norms and self.is_first:
            print(OWN_STATISTICS, flush=True)
        self.copy_first(model.state_dict().values())


class PeerLostError(Exception):
    """Another process of the training has ended, so that nothing can be summed any more."""


ALONE = Group(0, 1, torch.device("cpu"))


@contextmanager
def joined(p: Train, compute: Compute) -> Iterator[Group]:
    """Join this training's processes, as torchrun's environment variables describe them.

    Raises ParamsError if their number is not `processes`, or if this one has no GPU of its own,
    and PeerLostError if another process ends while this one needs it.
    """
    if p.processes == 1:
        yield ALONE
        return
    if compute.device.type == "mps":
        raise ParamsError(
            f"{paths.PARAMS}: processes is {p.processes}, but the GPU of a Mac is for one process; "
            "use -S processes=1, or -S device=cpu"
        )
    if compute.is_gpu:
        _choose_gpu(p)
    try:
        with ended_by_signals():
            dist.init_process_group(
                "nccl" if compute.is_gpu else "gloo",
                os.environ.get(STORE),
                rank=int(os.environ["RANK"]),
                world_size=int(os.environ["WORLD_SIZE"]),
            )
        if dist.get_world_size() != p.processes:
            raise ParamsError(
                f"{paths.PARAMS}: processes is {p.processes}, but WORLD_SIZE is "
                f"{dist.get_world_size()}; unset WORLD_SIZE and RANK, or use "
                f"-S processes={dist.get_world_size()}"
            )
        yield Group(dist.get_rank(), dist.get_world_size(), compute.device)
    except RuntimeError as error:
        if isinstance(error, dist.DistError) or "gloo" in str(error):
            raise PeerLostError(str(error)) from error
        raise
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """Let signals end this process at once: while it waits for others, Python does not see them."""
    handlers = {number: signal.signal(number, signal.SIG_DFL) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def check(p: Train, train_split: Split) -> None:
    """Raise ParamsError if that many processes cannot share a training's batches."""
    if p.processes == 1:
        return
    start = f"{paths.PARAMS}: processes is {p.processes}"
    if p.batch_size == AUTO:
        raise ParamsError(f"{start}, but batch_size is auto; use a number: -S batch_size=N")
    if len(train_split) <= p.batch_size:
        raise ParamsError(
            f"{start}, but one batch of all {len(train_split)} training samples, which is not "
            f"distributed, has batch_size {p.batch_size}; use -S processes=1, or a batch_size "
            f"below {len(train_split)}"
        )
    is_fixed = p.freeze_backbone and not p.unfreeze_epoch
    if is_fixed and p.augmentation.name == "none" and not p.mixes:
        raise ParamsError(
            f"{start}, but freeze_backbone with augmentation none computes the features once, "
            "which is not distributed; use -S processes=1"
        )
    smallest = min(batches.sizes(len(train_split), p.batch_size))
    if smallest < p.processes:
        raise ParamsError(
            f"{start}, but with batch_size {p.batch_size} the last batch has {smallest} samples, "
            f"and each process takes one or more; should be {smallest} or less"
        )


def _choose_gpu(p: Train) -> None:
    """Use the GPU with this process's number on its machine. Raises ParamsError if it has none."""
    number = int(os.environ["LOCAL_RANK"])
    n_gpus = torch.cuda.device_count()
    if number >= n_gpus:
        raise ParamsError(
            f"{paths.PARAMS}: processes is {p.processes}, and each takes a GPU, but "
            f"this machine has {n_gpus}; use -S processes={n_gpus}, or -S device=cpu"
        )
    torch.cuda.set_device(number)
