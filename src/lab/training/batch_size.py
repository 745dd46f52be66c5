"""`batch_size: auto`: the largest power of two whose training step fits into memory.

It is chosen once, before the first step, and is a number from then on. The weights, the optimizer
and the RNG state are as before afterwards, so that `-S batch_size=N` trains the same weights.
"""

import copy
import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import graph

from lab.training import device, processes
from lab.training.loop import Trainer
from retrace.errors import ParamsError
from retrace.system import memory

SMALLEST = 2  # batch norm does not take one sample
N_STEPS = 2  # the first one creates the optimizer's state
GPU_FRACTION = 0.8  # of a GPU's memory: the rest is for validation and a CUDA graph's copies
MEASURED = 4  # samples of the batch by which a CPU's need is measured; and twice as many
# What a step on a CPU allocates, for each byte that is kept for the backward pass: gradients of
# activations, and copies in the layout that kernels prefer.
CPU_FACTOR = 2.0


def choose(trainer: Trainer) -> int:
    """Return the largest batch size that fits, at most the number of training samples.

    On a GPU, sizes are tried; on a CPU, where a process without memory is killed, the need is
    computed from two small steps. Raises ParamsError if the smallest batch does not fit.
    """
    limit = _power_of_two(len(trainer.train_split))
    n_parts = trainer.p.accumulation
    if limit < SMALLEST * n_parts and n_parts > 1:
        raise ParamsError(
            f"params.yaml: accumulation is {n_parts}, but batch_size auto is at most {limit} here; "
            f"should be {max(1, limit // SMALLEST)} or less"
        )
    # Each part of a full batch has SMALLEST samples or more.
    smallest = 2 * _power_of_two(SMALLEST * n_parts - 1)
    if limit <= smallest:
        return limit
    with _restored(trainer):
        if trainer.p.unfreeze_epoch:
            trainer.state.model.unfreeze_backbone()
        if trainer.compute.device.type == "cpu":
            return _computed(trainer, smallest, limit)
        return _tried(trainer, smallest, limit)


def use(trainer: Trainer, size: int) -> None:
    """Train with batches of this size."""
    trainer.p = trainer.p.model_copy(update={"batch_size": size})


def _tried(trainer: Trainer, smallest: int, limit: int) -> int:
    """Double the batch size until a step runs out of memory."""
    kind = trainer.compute.device.type
    accelerator = torch.cuda if kind == "cuda" else torch.mps
    accelerator.set_per_process_memory_fraction(GPU_FRACTION)
    try:
        with device.enough_memory(smallest):
            _steps(trainer, smallest)
        size = smallest
        while size < limit and _fits(trainer, 2 * size):
            size *= 2
        return size
    finally:
        accelerator.set_per_process_memory_fraction(1.0)
        _free(trainer)


def _fits(trainer: Trainer, size: int) -> bool:
    try:
        _steps(trainer, size)
    except RuntimeError as error:
        if not device.is_out_of_memory(error):
            raise
        fits = False
    else:
        fits = True
    _free(trainer)  # here the exception, which refers to the step's tensors, has ended
    return fits


def _free(trainer: Trainer) -> None:
    trainer.state.optimizer.zero_grad()
    gc.collect()
    accelerator = torch.cuda if trainer.compute.device.type == "cuda" else torch.mps
    accelerator.empty_cache()


def _computed(trainer: Trainer, smallest: int, limit: int) -> int:
    """Return the largest size for which a CPU's free memory suffices."""
    small = min(MEASURED, limit // 2)
    whole = copy.copy(trainer)  # one part, of which an accumulated step has one in memory at a time
    whole.p = trainer.p.model_copy(update={"accumulation": 1})
    per_sample = (_need(whole, 2 * small) - _need(whole, small)) / small
    fitting = trainer.p.accumulation * memory.free() / (CPU_FACTOR * max(per_sample, 1.0))
    return min(limit, max(smallest, _power_of_two(int(fitting))))


def _need(trainer: Trainer, size: int) -> int:
    """Return the bytes that a step keeps for its backward pass, and those of its largest layer."""
    kept: dict[int, int] = {}
    largest = 0

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    def measure(_: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        nonlocal largest
        tensors = [each for each in (*inputs, output) if isinstance(each, Tensor)]
        largest = max(largest, sum(each.numel() * 4 for each in tensors))  # as float32

    hook = nn.modules.module.register_module_forward_hook(measure)
    try:
        with graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            _steps(trainer, size, 1)
    finally:
        hook.remove()
    return sum(kept.values()) + largest


def _steps(trainer: Trainer, size: int, n: int = N_STEPS) -> None:
    """Train with the first batch of this size, `n` times."""
    trial = copy.copy(trainer)
    use(trial, size)
    trial.state.model.train()
    inputs, labels = next(trial.epoch(torch.Generator(), 0, 0, processes.ALONE))
    for _ in range(n):
        trial.step(inputs, labels)


@contextmanager
def _restored(trainer: Trainer) -> Iterator[None]:
    """Restore the whole state of a training that has not begun."""
    state = trainer.state
    is_training = state.model.training
    was_frozen = state.model.trunk_is_frozen
    before = {name: copy.deepcopy(value) for name, value in state.state_dict().items()}
    try:
        yield
    finally:
        state.optimizer.zero_grad()
        if was_frozen and not state.model.trunk_is_frozen:
            state.model.freeze_backbone()
        state.load_state_dict(before)
        state.model.train(is_training)


def _power_of_two(number: int) -> int:
    """Return the largest power of two up to a number of 1 or more; else 0."""
    return 1 << number.bit_length() - 1 if number > 0 else 0
