"""What a function does with tensors, recorded and done again: neither its Python nor its gradients' bookkeeping.

On a CPU, that is most of the time of a small network's step. What was a number, a shape or a decision when it was
recorded is so for ever; tensors that the function only found, as weights are, are looked at and changed as ever.
"""

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from retrace.script import Operation, Play, Script, UnrecordableError


class Tape(TorchDispatchMode):
    """Every operation within: below autograd, so that those of the gradients are there."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: list[Operation] = []

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Or torch would import its compiler to say that nothing here is compiled."""
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default:
            raise UnrecordableError("it reads a number of a tensor's, which would stay what it was")
        self.operations.append(Operation(func, args, kwargs or {}, func(*args, **(kwargs or {}))))
        return self.operations[-1].result


def record(function: Play, *given: Tensor) -> Play:
    """What `function` did with these, to be done with others of the same shapes and strides. It is run once for that.

    Raises UnrecordableError where it reads tensors' values, or what it does cannot be done from a recording.
    """
    with Tape() as tape:
        results = function(*given)
    try:
        return Script(given, tape.operations, results).compiled()
    except (RuntimeError, TypeError, ValueError) as error:  # whatever torch has against an argument
        raise UnrecordableError(str(error)) from error
