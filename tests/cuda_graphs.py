"""torch.cuda's streams and graphs for tensors of a CPU, as far as a training step can tell them from the real ones.

While a graph is captured nothing is done: what was found has no value before the first replay, and what would have been
changed is as it was. A replay does the same operations with the very same tensors, whose memory stays theirs. What has
to wait for the device cannot be captured.
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


class Posing(Compute):
    """A CPU that is treated as a GPU is."""

    @property
    def is_gpu(self) -> bool:
        return True


@dataclass
class Call:
    """An operation, and what it gave when it was captured."""

    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    outs: list[Tensor]  # in memory of their own

    def again(self) -> None:
        outs = _own(self.function(*self.args, **self.kwargs), self.args, self.kwargs)
        for held, out in zip(self.outs, outs, strict=True):
            held.copy_(out)


@dataclass
class Graph:
    """In the place of `torch.cuda.CUDAGraph`."""

    calls: list[Call] = field(default_factory=list)
    n_replays: int = 0

    def replay(self) -> None:
        self.n_replays += 1
        with torch.no_grad():
            for call in self.calls:
                call.again()


class Unwaiting(TorchDispatchMode):
    """Raises RuntimeError where something waits for the device, as torch.cuda.set_sync_debug_mode does."""

    said = "called a synchronizing CUDA operation"

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if function is WAITS:
            raise RuntimeError(self.said)
        return function(*args, **kwargs or {})


class Capture(Unwaiting):
    """In the place of `torch.cuda.graph`."""

    said = "operation not permitted when stream is capturing"

    def __init__(self, graph: Graph) -> None:
        super().__init__()
        self.graph, self.before = graph, dict[int, tuple[Tensor, Tensor]]()

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if function._schema.is_mutable:
            for tensor in _tensors(args, kwargs):
                self.before.setdefault(id(tensor), (tensor, tensor.clone()))
        found = super().__torch_dispatch__(function, types, args, kwargs)
        self.graph.calls.append(Call(function, args, kwargs, _own(found, args, kwargs)))
        return found

    def __exit__(self, *raised: Any) -> None:
        super().__exit__(*raised)
        with torch.no_grad():
            for tensor, was in self.before.values():
                tensor.copy_(was)
            for call in self.graph.calls:
                for out in call.outs:
                    out.fill_(torch.nan if out.is_floating_point() else 77)


def _tensors(*given: Any) -> list[Tensor]:
    return [leaf for leaf in _pytree.tree_leaves(given) if isinstance(leaf, Tensor)]


def _own(outs: Any, *given: Any) -> list[Tensor]:
    """Those of `outs` that are no views of what was given."""
    places = {tensor.untyped_storage().data_ptr() for tensor in _tensors(*given)}
    return [out for out in _tensors(outs) if out.untyped_storage().data_ptr() not in places]


class Stream:
    """In the place of `torch.cuda.Stream`; a CPU has but one."""

    def __init__(self, device: object = None) -> None:
        pass

    def wait_stream(self, other: object) -> None:
        pass


def stand_in(monkeypatch: pytest.MonkeyPatch) -> list[Graph]:
    """Until the test's end torch.cuda is this; returns all graphs, as they are made."""
    graphs: list[Graph] = []
    unwaiting: list[Unwaiting] = []

    def made() -> Graph:
        graphs.append(Graph())
        return graphs[-1]

    def set_sync_debug_mode(mode: str) -> None:
        if mode == "error":
            warnings.warn("Synchronization debug mode is a prototype feature", stacklevel=2)
            unwaiting.append(Unwaiting().__enter__())
        else:
            unwaiting.pop().__exit__(None, None, None)

    replaced: dict[str, Any] = {
        "CUDAGraph": made,
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
