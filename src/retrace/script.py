"""Recorded operations as a function, in which nothing is done that need not be done each time.

What is small has its place for ever. A view that is there already is not made again, nor one of what keeps its place;
what is the same each time is kept; a copy of what nobody looks at afterwards, or nobody changes, is the thing itself;
what nobody looks at at all is left out; a layer and its ReLU are one call. The numbers are the same, to the bit.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from retrace import calls
from retrace.calls import Call, Name, Play, aten

CLONE, COPY = aten.clone.default, aten.copy_.default
LAYER, RELU, ACTIVATED = aten.addmm.default, aten.relu.default, aten._addmm_activation.default
EMPTY = {aten.new_empty_strided.default, aten.empty_strided.default}
SMALL = 1 << 16  # bytes of a tensor that keeps its place: larger ones share theirs, which stays in the cache
FEW = 1 << 23  # bytes of all tensors, for any to keep its place: it would break up the memory that large ones leave
OF_SHAPES = {aten.ones_like.default, aten.zeros_like.default, aten.new_zeros.default, aten.new_ones.default}


class UnrecordableError(Exception):
    """The function does what a recording would not do again."""


class Operation:
    """As it was done."""

    def __init__(self, kind: Any, args: Sequence[Any], settings: dict[str, Any], result: Any) -> None:
        self.kind, self.args, self.settings, self.result = kind, args, settings, result
        self.inputs = [*_tensors(args), *_tensors(list(settings.values()))]
        self.outputs = result if isinstance(result, (list, tuple)) else [result]
        self.reads, self.gives = _storages(self.inputs), _storages(self.outputs)
        is_chance = torch.Tag.nondeterministic_seeded in kind.tags
        # It makes other names for the same numbers; or new numbers of its inputs alone; and nothing else.
        self.is_view = kind.is_view and self.gives <= self.reads
        self.is_function = not (self.is_view or is_chance or kind._schema.is_mutable)

    @property
    def changes(self) -> set[int]:
        """Storages of those of its inputs that it says it writes to."""
        if not self.kind._schema.is_mutable:
            return set()
        told = dict(zip((argument.name for argument in self.kind._schema.arguments), self.args, strict=False))
        told |= self.settings
        return _storages([told.get(argument.name) for argument in self.kind._schema.arguments if argument.is_write])


class Script:
    """A call for each operation that is left, over names of tensors."""

    def __init__(self, given: Sequence[Tensor], operations: Sequence[Operation], results: Sequence[Tensor]) -> None:
        self._results = results
        self._names = {id(tensor): Name(f"given{number}") for number, tensor in enumerate(given)}
        self._takes = list(self._names.values())
        self._views: dict[object, Name] = {_view(tensor): self._names[id(tensor)] for tensor in given}
        self._held: dict[str, Tensor] = {}
        self._calls: list[Call] = []
        self._latest: Operation | None = None  # the last call, if none was taken back since
        self._own: list[Any] = []  # kept, or a later tensor could have the id of one of these
        # Of storages: given each time, or as good as that; made each time; made where they were before; never another.
        self._given, self._made, self._placed, self._same = _storages(given), set[int](), set[int](), set[int]()
        self._lent = set[int]()  # of those made, whose numbers are at such a place
        self._returned = _storages(results)
        born = {
            _storage(made): made.untyped_storage().nbytes()
            for operation in operations
            for made in _tensors(operation.outputs)
            if _storage(made) not in operation.reads
        }
        self._born, self._are_few = set(born), sum(born.values()) <= FEW
        asked = _asked(operations, results)
        self._needed = {place: n for n, operation in enumerate(asked) for place in operation.reads}
        self._needed |= dict.fromkeys(self._returned, len(asked))
        self._changed = {place for operation in asked for place in operation.changes}
        for number, operation in enumerate(asked):
            self._add(number, operation)

    def compiled(self) -> Play:
        """The function."""
        return calls.compiled(self._takes, self._calls, self._held, list(map(self._said, self._results)))

    def _add(self, number: int, operation: Operation) -> None:
        if operation.is_view and self._is_there(operation):
            return
        if self._is_same(operation):
            self._same |= operation.gives
        elif operation.kind is CLONE and self._is_given(operation):
            self._names[id(operation.result)] = self._views[_view(operation.result)] = self._said(operation.args[0])
            self._given |= operation.gives
        elif operation.kind is COPY and self._is_needless(number, operation):
            self._replace(*operation.args[:2])
        elif operation.kind is RELU and (layer := self._layer_below(number, operation)):
            self._fuse(layer, operation)
        else:
            self._write(operation)

    def _is_there(self, view: Operation) -> bool:
        """Whether no call is needed: it is of what keeps its place, or has the name of an equal one."""
        if view.reads.isdisjoint(self._given | self._made):
            return True
        name = self._views.get(_view(view.result)) if isinstance(view.result, Tensor) else None
        if name:
            self._names[id(view.result)] = name
        return name is not None

    def _is_same(self, operation: Operation) -> bool:
        """Whether it makes the same numbers each time, which nobody changes afterwards."""
        is_of_shapes = operation.kind in OF_SHAPES or operation.reads <= self._same
        return operation.is_function and is_of_shapes and operation.gives.isdisjoint(self._changed | self._returned)

    def _is_given(self, clone: Operation) -> bool:
        """Whether it is of what is given each time, and nobody changes either: the one is then as good as the other."""
        of, made = clone.args[0], clone.result
        alike = (of.shape, of.stride(), of.storage_offset()) == (made.shape, made.stride(), made.storage_offset())
        unchanged = (clone.reads | clone.gives).isdisjoint(self._changed | self._returned)
        return _storage(of) in self._given and alike and unchanged

    def _layer_below(self, number: int, relu: Operation) -> Operation | None:
        """The layer that is the last call, if nobody looks at it but this: torch has a call for both."""
        layer, of = self._latest, relu.args[0]
        if not layer or layer.kind is not LAYER or layer.settings or not layer.gives <= self._placed:
            return None
        is_all = sorted(zip(of.stride(), of.shape, strict=True)) == sorted(
            zip(layer.result.stride(), layer.result.shape, strict=True)
        )
        alike = (of.dtype, of.shape, of.stride()) == (layer.result.dtype, relu.result.shape, relu.result.stride())
        alone = layer.gives.isdisjoint(self._needed_after(number) | self._returned)
        return layer if relu.reads == layer.gives and is_all and alike and alone and self._can_be_placed(relu) else None

    def _fuse(self, layer: Operation, relu: Operation) -> None:
        """Both are one call, in the place of the last."""
        self._calls.pop()
        place = relu.result.as_strided(layer.result.shape, layer.result.stride())
        self._own.append(Operation(ACTIVATED, layer.args, {}, place))
        self._write(self._own[-1])

    def _replace(self, into: Tensor, of: Tensor) -> None:
        """`of` has the names of `into` too, which the last call makes."""
        self._calls.pop()
        self._latest = None
        self._names[id(into)] = self._views[_view(into)] = self._said(of)
        if _storage(of) in self._placed | self._lent:
            self._lent.add(_storage(into))

    def _is_needless(self, number: int, copy: Operation) -> bool:
        """Whether it is into a place that was made for it alone, of what nobody uses after it: autograd copies a
        gradient so, if others could see it, as the tape does.
        """
        into, of = copy.args[:2]
        is_newest = self._latest is not None and self._latest.kind in EMPTY and self._latest.result is into
        alike = (into.dtype, into.shape, into.stride()) == (of.dtype, of.shape, of.stride())
        ours = self._made - self._lent if _storage(into) in self._returned else self._made | self._placed
        return is_newest and alike and _storage(of) in ours - self._needed_after(number)

    def _needed_after(self, number: int) -> set[int]:
        return {place for place, last in self._needed.items() if last > number}

    def _write(self, operation: Operation) -> None:
        kind, args = operation.kind, operation.args
        if kind in calls.QUICKER:
            kind, args = calls.QUICKER[kind](*args)
        told = list(map(self._said, calls.all_args(kind, args, operation.settings)))
        made = [output for output in _tensors(operation.outputs) if id(output) not in self._names]
        if self._can_be_placed(operation) and (placing := calls.placing(kind)):
            kind = placing
            self._placed |= operation.gives
            told += map(self._said, made)
            made = []
        names = {id(output): self._named(output) for output in made}
        self._calls.append(Call(kind, told, [names.get(id(output)) for output in operation.outputs if made]))
        self._latest = operation

    def _can_be_placed(self, operation: Operation) -> bool:
        """Whether it can write to where it wrote when it was recorded."""
        is_small = sum(output.nbytes for output in _tensors(operation.outputs)) <= SMALL
        return self._are_few and operation.is_function and is_small and operation.gives.isdisjoint(self._returned)

    def _said(self, value: Any) -> Any:
        """The value, with names in the place of tensors."""
        if isinstance(value, (list, tuple)):
            return list(map(self._said, value))
        if not isinstance(value, Tensor):
            return value
        if id(value) not in self._names:
            if _storage(value) in (self._born | self._given) - self._same - self._placed:
                raise UnrecordableError("it has a tensor that no operation gave it")
            self._names[id(value)] = name = Name(f"found{len(self._held)}")
            self._held[name] = value.detach()
            self._own.append(value)
        return self._names[id(value)]

    def _named(self, output: Tensor) -> Name:
        if _storage(output) not in self._given:
            self._made.add(_storage(output))
        self._names[id(output)] = name = self._views.setdefault(_view(output), Name(f"made{len(self._names)}"))
        return name


def _asked(operations: Sequence[Operation], results: Sequence[Tensor]) -> list[Operation]:
    """Those that change something, or make what is used."""
    asked, used = [], set(map(id, results))
    for operation in reversed(operations):
        if not (operation.is_view or operation.is_function) or not used.isdisjoint(map(id, operation.outputs)):
            used |= set(map(id, operation.inputs))
            asked.append(operation)
    return asked[::-1]


def _tensors(value: Any) -> list[Tensor]:
    """In an operation's arguments or results, however deep."""
    if isinstance(value, Tensor):
        return [value]
    return [tensor for one in value for tensor in _tensors(one)] if isinstance(value, (list, tuple)) else []


def _storages(value: Any) -> set[int]:
    return set(map(_storage, _tensors(value)))


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


def _view(tensor: Tensor) -> object:
    """Equal of tensors that are the same numbers at the same places."""
    return _storage(tensor), tensor.dtype, tensor.storage_offset(), tensor.shape, tensor.stride()
