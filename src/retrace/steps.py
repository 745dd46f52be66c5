"""A step of training: the gradient of one batch's loss, and the optimizer's move against it.

A small network's step is some hundred operations that take longer to be asked for than to be done. So they are
recorded, and asked for at once: on a GPU as a CUDA graph, on a CPU as a tape. A recording is used only where it does
what the step does, to the bit.
"""

import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor

from retrace import evaluation, tape
from retrace.losses import LossFunction
from retrace.seeding import Compute
from retrace.shapes import Inputs, Labels, Loss
from retrace.state import State, Step
from retrace.tape import UnrecordableError

PLAIN = 2  # steps of a size before it is recorded: libraries choose kernels, optimizers begin to remember
UNRECORDED = "steps are not recorded, and so take longer"
QUICK = 0.02  # seconds, above which what a recording saves of a step on a CPU is next to nothing


class Found(NamedTuple):
    """By one step, of its batch, before the weights moved."""

    loss: Loss
    n_correct: Tensor


Move = Callable[[Inputs, Labels], Sequence[Tensor]]  # of what was found


class Steps:
    """Makes a training's steps, one after the other."""

    def __init__(self, state: State, loss_of: LossFunction, compute: Compute) -> None:
        self.state, self.loss_of, self.compute = state, loss_of, compute
        # A tensor, for a recorded number would stay what it was; a GPU's kernels take it in float32 alone.
        kind = torch.float32 if compute.is_gpu else torch.float64
        self.rate, self._rate = torch.zeros((), dtype=kind, device=compute.device), 0.0
        for group in state.optimizer.param_groups:
            group["lr"] = self.rate
            if compute.is_gpu and "capturable" in group:
                group["capturable"] = True
        for held in state.optimizer.state.values():  # as loaded, before it was to be capturable
            if compute.is_gpu and "step" in held:
                held["step"] = held["step"].to(compute.device)
        self._moves: dict[object, Move] = {}  # by the kind of batch
        self._times: dict[object, int] = {}
        self._can_be_recorded = True

    def __call__(self, inputs: Inputs, labels: Labels, rate: float) -> Step:
        """The weights have moved once, against the gradient of this batch's loss."""
        if rate != self._rate:
            self._rate = rate
            self.rate.fill_(rate)
        batch = inputs.shape, inputs.stride()
        if move := self._moves.get(batch):
            found = move(inputs, labels)
        else:
            began = time.perf_counter()
            found = self.move(inputs, labels)
            seconds = time.perf_counter() - began
            self._times[batch] = times = self._times.get(batch, 0) + 1
            if times == PLAIN:
                is_worth_it = self._can_be_recorded and (self.compute.is_gpu or seconds < QUICK)
                self._moves[batch] = self._recorded(inputs, labels) if is_worth_it else self.move
        return Step(self.state.step + 1, labels.shape[0], rate, *found)

    def move(self, inputs: Inputs, labels: Labels) -> Found:
        """One operation after the other."""
        if not self.state.model.training:  # as validation leaves it, which a recording need not know
            self.state.model.train()
        with self.compute.autocast():
            logits = self.state.model(inputs)
        loss = self.loss_of(logits.float(), labels)
        loss.backward()
        self.state.optimizer.step()
        self._forget_gradients()
        return Found(loss.detach(), evaluation.n_correct(logits.detach(), labels))

    def _forget_gradients(self) -> None:
        """As `zero_grad` does, without its marks for torch's profiler, which take as long as some operations."""
        for group in self.state.optimizer.param_groups:
            for weight in group["params"]:
                weight.grad = None

    def _recorded(self, inputs: Inputs, labels: Labels) -> Move:
        """`move`, recorded, if that does the same with other samples too; the state is as before."""
        record = cuda_graph if self.compute.is_gpu else taped
        try:
            others = inputs.flip(0), labels.roll(1)
            with _unwaiting(self.compute):
                does = self._does(self.move, *others)
            with self._undone():
                move = record(self.move, inputs, labels)
            says = self._does(move, *others)
            if is_the_same(does, says):
                return move
            reason = "a recorded step gives other bits"
        except (UnrecordableError, RuntimeError) as error:
            reason = str(error).partition("\n")[0]
        print(f"{UNRECORDED}: {reason}", flush=True)
        self._can_be_recorded = False
        return self.move

    def _does(self, move: Move, inputs: Inputs, labels: Labels) -> list[Tensor]:
        """All that one step by `move` finds and changes, which is undone."""
        with self._undone(), _aside(self.compute):
            found = move(inputs, labels)
            return [tensor.clone() for tensor in (*found, *self._changed())]

    @contextmanager
    def _undone(self) -> Iterator[None]:
        """What steps within change is as before after it."""
        changed = self._changed()
        before = [tensor.clone() for tensor in changed]
        try:
            with torch.random.fork_rng([self.compute.device] if self.compute.is_gpu else []):
                yield
        finally:
            self._forget_gradients()
            with torch.no_grad():
                for tensor, was in zip(changed, before, strict=True):
                    tensor.copy_(was)

    def _changed(self) -> list[Tensor]:
        """Weights, running statistics and what the optimizer remembers."""
        remembered = [value for held in self.state.optimizer.state.values() for value in held.values()]
        return [*self.state.model.state_dict().values(), *(v for v in remembered if isinstance(v, Tensor))]


def is_the_same(does: Sequence[Tensor], says: Sequence[Tensor]) -> bool:
    """To the bit."""
    return all(map(torch.equal, does, says))


def taped(move: Move, inputs: Inputs, labels: Labels) -> Move:
    """`move` as a tape, for a CPU."""
    return tape.record(move, inputs, labels)


def cuda_graph(move: Move, inputs: Inputs, labels: Labels) -> Move:
    """`move` as a CUDA graph, which has a batch and what it finds at fixed places."""
    held_inputs, held_labels = inputs.clone(), labels.clone()
    graph, stream = torch.cuda.CUDAGraph(), torch.cuda.current_stream()
    with torch.cuda.stream(stream), torch.cuda.graph(graph):  # the first is there to leave also where recording fails
        loss, n_correct = move(held_inputs, held_labels)

    def replay(inputs: Inputs, labels: Labels) -> Found:
        held_inputs.copy_(inputs)
        held_labels.copy_(labels)
        graph.replay()
        return Found(loss.clone(), n_correct.clone())

    return replay


@contextmanager
def _unwaiting(compute: Compute) -> Iterator[None]:
    """Raises RuntimeError where something within waits for the GPU, which cannot be recorded and breaks a recording."""
    if not compute.is_gpu:
        yield
        return
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it calls itself a prototype
            torch.cuda.set_sync_debug_mode("error")
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@contextmanager
def _aside(compute: Compute) -> Iterator[None]:
    """On a GPU, in a stream of its own, where nothing is left of a step that a later recording would wait for."""
    if not compute.is_gpu:
        yield
        return
    stream = torch.cuda.Stream(compute.device)
    stream.wait_stream(torch.cuda.current_stream(compute.device))
    with torch.cuda.stream(stream):
        yield
    torch.cuda.current_stream(compute.device).wait_stream(stream)
