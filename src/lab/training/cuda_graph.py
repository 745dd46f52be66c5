"""A training step as a CUDA graph: launched at once instead of kernel by kernel.

The kernels of a small model's step run faster than the CPU launches them. A graph is replayed only
if its results are bit-identical to the step's; otherwise training continues with plain steps.
"""

import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from lab.shapes import Inputs, Loss, Targets
from lab.training.state import State

WARM_UP = 2  # plain steps before capture: kernels are chosen, the optimizer creates its state
NOT_CAPTURED = "steps are not captured as a CUDA graph, and so take longer"

StepFunction = Callable[[Inputs, Targets], tuple[Loss, Tensor]]


class CapturedStep:
    """The same step, captured once for each shape of batch and replayed from then on."""

    def __init__(self, step: StepFunction, state: State) -> None:
        self.step = step
        self.state = state
        # A graph keeps the address of a tensor; a number would stay what it was at capture.
        groups = state.optimizer.param_groups
        self._rates = [torch.zeros((), dtype=torch.float32, device=state.device) for _ in groups]
        self._last_rates = [0.0] * len(groups)
        self._steps: dict[object, StepFunction] = {}
        self._n_plain = Counter[object]()
        self._can_be_captured = True
        _make_capturable(state.optimizer, state.device)

    def __call__(self, inputs: Inputs, labels: Targets) -> tuple[Loss, Tensor]:
        self._copy_learning_rates()
        # Of the whole batch too: all processes capture the same step.
        shape = inputs.shape, inputs.stride(), labels.shape, self.state.model.trunk_is_frozen
        if shape in self._steps:
            return self._steps[shape](inputs, labels)
        result = self.step(inputs, labels)
        self._n_plain[shape] += 1
        if self._n_plain[shape] == WARM_UP:
            self._steps[shape] = self._captured(inputs, labels)
        return result

    def _copy_learning_rates(self) -> None:
        """Copy the numbers that the loop has set to where the graph reads them."""
        for number, group in enumerate(self.state.optimizer.param_groups):
            rate = group["lr"]
            if isinstance(rate, float) and rate != self._last_rates[number]:
                self._last_rates[number] = rate
                self._rates[number].fill_(rate)
            group["lr"] = self._rates[number]

    def _captured(self, inputs: Inputs, labels: Targets) -> StepFunction:
        """Return the graph if its results for other samples are bit-identical, else the step."""
        if not self._can_be_captured:
            return self.step
        try:
            others = inputs.flip(0), labels.roll(1, 0)
            with _forbidden_synchronization():
                expected = self._outcome(self.step, *others)
            with self._restored():
                graph = capture(self.step, inputs, labels)
            if equal(expected, self._outcome(graph, *others)):
                return graph
            reason = "the graph's results differ from the step's"
        except RuntimeError as error:
            reason = str(error).partition("\n")[0]
        print(f"{NOT_CAPTURED}: {reason}", flush=True)
        self._can_be_captured = False
        return self.step

    def _outcome(self, step: StepFunction, inputs: Inputs, labels: Targets) -> list[Tensor]:
        """Return everything that one step computes and changes, and undo the step."""
        with self._restored(), _side_stream(self.state.device):
            result = step(inputs, labels)
            return [tensor.clone() for tensor in (*result, *self._changed_tensors())]

    @contextmanager
    def _restored(self) -> Iterator[None]:
        """Restore weights, optimizer and RNG state at the end."""
        tensors = self._changed_tensors()
        before = [tensor.clone() for tensor in tensors]
        devices = [self.state.device] if self.state.device.type == "cuda" else []
        try:
            with torch.random.fork_rng(devices):
                yield
        finally:
            self.state.optimizer.zero_grad()
            with torch.no_grad():
                for tensor, value in zip(tensors, before, strict=True):
                    tensor.copy_(value)

    def _changed_tensors(self) -> list[Tensor]:
        """Return what a step changes: weights, running statistics, the optimizer's state."""
        states = self.state.optimizer.state.values()
        remembered = [value for state in states for value in state.values()]
        tensors = [*self.state.model.state_dict().values(), *remembered]
        return [tensor for tensor in tensors if isinstance(tensor, Tensor)]


def capture(step: StepFunction, inputs: Inputs, labels: Targets) -> StepFunction:
    """Capture a step. Its graph has the batch and the results at fixed addresses."""
    static_inputs = inputs.clone()
    static_labels = labels.clone()
    graph = torch.cuda.CUDAGraph()
    stream = torch.cuda.current_stream()
    # The outer context restores the current stream if the capture fails.
    with torch.cuda.stream(stream), torch.cuda.graph(graph):
        loss, n_correct = step(static_inputs, static_labels)

    def replay(inputs: Inputs, labels: Targets) -> tuple[Loss, Tensor]:
        static_inputs.copy_(inputs)
        static_labels.copy_(labels)
        graph.replay()
        return loss.clone(), n_correct.clone()

    return replay


def equal(expected: Sequence[Tensor], computed: Sequence[Tensor]) -> bool:
    """Return whether all tensors are bit-identical."""
    return all(map(torch.equal, expected, computed))


def _make_capturable(optimizer: torch.optim.Optimizer, device: torch.device) -> None:
    """Make an optimizer's step capturable; a loaded state has its counters on the CPU."""
    for group in optimizer.param_groups:
        if "capturable" in group:
            group["capturable"] = True
    for state in optimizer.state.values():
        if "step" in state:
            state["step"] = state["step"].to(device)


@contextmanager
def _forbidden_synchronization() -> Iterator[None]:
    """Raise RuntimeError if an operation waits for the GPU, which would break a capture."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PyTorch warns that this mode is a prototype
            torch.cuda.set_sync_debug_mode("error")
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@contextmanager
def _side_stream(device: torch.device) -> Iterator[None]:
    """Use a separate stream, so that a later capture waits for none of its operations."""
    stream = torch.cuda.Stream(device)
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream):
        yield
    torch.cuda.current_stream(device).wait_stream(stream)
