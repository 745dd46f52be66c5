"""What a function does with tensors, recorded and done again: neither its Python nor its gradients' bookkeeping.

On a CPU, that is most of the time of a small network's step. What was a number, a shape or a decision when it was
recorded is so for ever; tensors that the function only found, as weights are, are looked at and changed as ever.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

Play = Callable[..., Sequence[Tensor]]
COPY = torch.ops.aten.copy_.default
EMPTY = {torch.ops.aten.new_empty_strided.default, torch.ops.aten.empty_strided.default}


class UnrecordableError(Exception):
    """The function does what a recording would not do again."""


class Operation(NamedTuple):
    """As it was done."""

    kind: Any
    args: Sequence[Any]
    settings: dict[str, Any]
    result: Any

    @property
    def outputs(self) -> Sequence[Any]:
        return self.result if isinstance(self.result, (list, tuple)) else [self.result]


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

    Raises UnrecordableError where it reads tensors' values.
    """
    with Tape() as tape:
        results = function(*given)
    script = Script(given)
    uses = Counter(id(tensor) for operation in tape.operations for tensor in _tensors(operation))
    uses.update(map(id, results))
    for operation in tape.operations:
        script.add(operation, uses)
    return script.compiled(results)


class Script:
    """A Python function of a line for each operation."""

    def __init__(self, given: Sequence[Tensor]) -> None:
        self.names = {id(tensor): f"given{number}" for number, tensor in enumerate(given)}
        self.takes = ", ".join(self.names.values())
        self.held: dict[str, Any] = {}
        self.lines: list[str] = []
        self._found = {_storage(tensor) for tensor in given}
        self._made: set[int] = set()
        self._last: Any = None

    def add(self, operation: Operation, uses: Counter[int]) -> None:
        """The operation; instead of a needless copy, what it copies has both names."""
        if operation.kind is COPY and self._is_needless(operation, uses):
            self.lines.pop()
            self.names[id(operation.result)] = self.said(operation.args[1])
            return
        self._last = operation.kind
        self.held[call := f"call{len(self.held)}"] = operation.kind._op
        told = [*map(self.said, operation.args), *(f"{k}={self.said(v)}" for k, v in operation.settings.items())]
        is_new = [isinstance(output, Tensor) and id(output) not in self.names for output in operation.outputs]
        targets = [self._named(output) if new else "_" for output, new in zip(operation.outputs, is_new, strict=True)]
        into = f"[{', '.join(targets)}]" if isinstance(operation.result, (list, tuple)) else "".join(targets)
        self.lines.append(f"{into} = {call}({', '.join(told)})" if any(is_new) else f"{call}({', '.join(told)})")

    def said(self, value: Any) -> str:
        """The value as the function's source has it: by a name."""
        if isinstance(value, (list, tuple)):
            return f"[{', '.join(map(self.said, value))}]"
        if isinstance(value, Tensor):
            if id(value) in self.names:
                return self.names[id(value)]
            if _storage(value) in self._made:
                raise UnrecordableError("it has a tensor that no operation gave it")
            self._found.add(_storage(value))
        self.held[name := f"found{len(self.held)}"] = value
        if isinstance(value, Tensor):
            self.names[id(value)] = name
        return name

    def compiled(self, results: Sequence[Tensor]) -> Play:
        returned = ", ".join(map(self.said, results))
        body = [*_freed(self.lines, returned), f"return [{returned}]"]
        exec("\n    ".join([f"def play({self.takes}):", *body]), self.held)  # noqa: S102 - of names made here alone
        return torch.no_grad()(self.held["play"])

    def _is_needless(self, copy: Operation, uses: Counter[int]) -> bool:
        """Whether it is into a place that was made for it alone, of what nobody uses after it: autograd copies a
        gradient so, if others could see it, as the tape does.
        """
        into, of = copy.args[:2]
        is_newest = bool(self.lines) and self.lines[-1].startswith(f"{self.names.get(id(into))} = ")
        made_for_it = is_newest and self._last in EMPTY
        alike = (into.dtype, into.shape, into.stride()) == (of.dtype, of.shape, of.stride())
        return made_for_it and alike and uses[id(of)] == 1 and self.said(of).startswith("made")

    def _named(self, output: Tensor) -> str:
        if _storage(output) not in self._found:
            self._made.add(_storage(output))
        return self.names.setdefault(id(output), f"made{len(self.names)}")


def _freed(lines: Sequence[str], returned: str) -> Iterator[str]:
    """The lines, and after the last that names a made tensor, its end."""
    named = [set(re.findall(r"\bmade\d+", line)) for line in lines]
    last = {name: number for number, names in enumerate(named) for name in names}
    last |= dict.fromkeys(re.findall(r"\bmade\d+", returned), len(lines))
    for number, line in enumerate(lines):
        yield line
        if over := sorted(name for name in named[number] if last[name] == number):
            yield f"del {', '.join(over)}"


def _tensors(value: Any) -> Iterator[Tensor]:
    """In an operation's arguments, however deep."""
    if isinstance(value, Operation):
        value = [*value.args, *value.settings.values()]
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Iterable) and not isinstance(value, str):
        for one in value:
            yield from _tensors(one)


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata
