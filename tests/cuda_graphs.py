"""Stand-ins for torch.cuda's streams and graphs that work with tensors of a CPU.

As with real graphs, capture computes nothing: outputs have no value before the first replay, and
inputs are unchanged. A replay repeats the operations on the same tensors, at the same addresses.
Operations that wait for the device cannot be captured.
"""

import warnings
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils import _pytree
from torch.utils._python_dispatch import TorchDispatchMode

from lab.training.device import Compute

WAITS = torch.ops.aten._local_scalar_dense.default


class PosingAsGpu(Compute):
    """A CPU that training takes for a GPU."""

    @property
    def is_gpu(self) -> bool:
        return True


@dataclass
class Call:
    """An operation, and the outputs of its capture."""

    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    outs: list[Tensor]  # in memory of their own

    def repeat(self) -> None:
        """Compute the outputs again, into the same memory."""
        outs = _own(self.function(*self.args, **self.kwargs), self.args, self.kwargs)
        for static, out in zip(self.outs, outs, strict=True):
            static.copy_(out)


@dataclass
class Graph:
    """Stands in for `torch.cuda.CUDAGraph`."""

    calls: list[Call] = field(default_factory=list)
    n_replays: int = 0

    def replay(self) -> None:
        self.n_replays += 1
        with torch.no_grad():
            for call in self.calls:
                call.repeat()


class ForbidWaiting(TorchDispatchMode):
    """Raises RuntimeError where an operation waits for the device; torch's own sync debug mode."""

    message = "called a synchronizing CUDA operation"

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if function is WAITS:
            raise RuntimeError(self.message)
        return function(*args, **kwargs or {})


class Capture(ForbidWaiting):
    """Stands in for `torch.cuda.graph`."""

    message = "operation not permitted when stream is capturing"

    def __init__(self, graph: Graph) -> None:
        super().__init__()
        self.graph = graph
        self.before: dict[int, tuple[Tensor, Tensor]] = {}

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if function._schema.is_mutable:
            for tensor in _tensors(args, kwargs):
                self.before.setdefault(id(tensor), (tensor, tensor.clone()))
        outs = super().__torch_dispatch__(function, types, args, kwargs)
        self.graph.calls.append(Call(function, args, kwargs, _own(outs, args, kwargs)))
        return outs

    def __exit__(self, *raised: Any) -> None:
        super().__exit__(*raised)
        with torch.no_grad():
            for tensor, value in self.before.values():
                tensor.copy_(value)
            for call in self.graph.calls:
                for out in call.outs:
                    out.fill_(torch.nan if out.is_floating_point() else 77)


def _tensors(*values: Any) -> list[Tensor]:
    return [leaf for leaf in _pytree.tree_leaves(values) if isinstance(leaf, Tensor)]


def _own(outs: Any, *inputs: Any) -> list[Tensor]:
    """Return the outputs that are not views of inputs."""
    addresses = {tensor.untyped_storage().data_ptr() for tensor in _tensors(*inputs)}
    return [out for out in _tensors(outs) if out.untyped_storage().data_ptr() not in addresses]


class Stream:
    """Stands in for `torch.cuda.Stream`."""

    def __init__(self, device: object = None) -> None:
        pass

    def wait_stream(self, other: object) -> None:
        pass


def replace_cuda(monkeypatch: pytest.MonkeyPatch) -> list[Graph]:
    """Replace torch.cuda until the end of the test. Return the list of all graphs created."""
    graphs: list[Graph] = []
    modes: list[ForbidWaiting] = []

    def create() -> Graph:
        graphs.append(Graph())
        return graphs[-1]

    def set_sync_debug_mode(mode: str) -> None:
        if mode == "error":
            warnings.warn("Synchronization debug mode is a prototype feature", stacklevel=2)
            modes.append(ForbidWaiting().__enter__())
        else:
            modes.pop().__exit__(None, None, None)

    replaced: dict[str, Any] = {
        "CUDAGraph": create,
        "graph": Capture,
        "Stream": Stream,
        "current_stream": Stream,
        "stream": lambda _: nullcontext(),
        "set_sync_debug_mode": set_sync_debug_mode,
        "get_rng_state": lambda _: torch.get_rng_state(),
        "set_rng_state": lambda state, _: torch.set_rng_state(state),
    }
    for name, value in replaced.items():
        monkeypatch.setattr(torch.cuda, name, value)
    return graphs
