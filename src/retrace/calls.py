"""How torch is asked for operations with the least around them: all in one call, by the interpreter it has for
TorchScript, which spares each Python's reading of its arguments and its way back to Python.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

Play = Callable[..., Sequence[Tensor]]

aten = torch.ops.aten

# What torch does for them, with less around it: a number becomes a tensor for each tensor, every time; a result may not
# have a place.
QUICKER: dict[Any, Callable[..., tuple[Any, Sequence[Any]]]] = {
    aten._foreach_add_.Scalar: lambda of, n: (aten._foreach_add_.List, (of, [torch.full_like(one, n) for one in of])),
    aten.relu.default: lambda of: (aten.clamp_min.default, (of, 0)),
}

# With a place, the interpreter takes these for those of two tensors; and torch computes that one in another order.
UNPLACED = {aten.max.default, aten.min.default, aten.native_batch_norm.default}

ALIKE = torch.TensorType, torch.IntType, torch.FloatType, torch.BoolType  # of constants in a list, whichever they are
LAYOUTS = {torch.contiguous_format: 0, torch.preserve_format: 1, torch.channels_last: 2, torch.channels_last_3d: 3}


class Name(str):
    """Of a tensor."""

    __slots__ = ()


class Call(NamedTuple):
    """Of an operation, with all of its arguments: names, lists of names, or what they are; and what its results are
    called, where they are looked at, one by one also where they are a list.
    """

    kind: Any
    args: list[Any]
    made: list[Name | None]


@functools.cache
def placing(kind: Any) -> Any | None:
    """The same operation into tensors that it is given last, if torch has a kernel for it."""
    if kind in UNPLACED:
        return None
    told = [(argument.name, str(argument.type)) for argument in kind._schema.arguments]
    for name in kind._overloadpacket.overloads():
        other = getattr(kind._overloadpacket, name)
        outs = [argument.name for argument in other._schema.arguments if argument.is_out]
        rest = [(argument.name, str(argument.type)) for argument in other._schema.arguments if not argument.is_out]
        if outs and rest == told and torch.Tag.generated not in other.tags:
            return other
    return None


def all_args(kind: Any, args: Sequence[Any], settings: dict[str, Any]) -> list[Any]:
    """One for each argument of the operation, where Python's functions let some be told by a number or not at all."""
    arguments = kind._schema.arguments
    told = [*args, *(settings.get(argument.name, argument.default_value) for argument in arguments[len(args) :])]
    beside = next((arg for arg in told if isinstance(arg, Tensor)), None)
    return [
        _tensor(arg, beside) if isinstance(arg, (int, float)) and isinstance(argument.type, torch.TensorType) else arg
        for arg, argument in zip(told, arguments, strict=True)
    ]


def _tensor(number: float, beside: Tensor | None) -> Tensor:
    """What Python's functions make of a number beside that tensor, whose type it leaves as it is if it can. Raises
    RuntimeError where they see more of the number than a tensor of its type has.
    """
    if beside is None:
        return torch.tensor(number)
    kind = torch.result_type(beside, number)
    if beside.dim() and kind == beside.dtype and kind.is_floating_point:
        return torch.tensor(number, dtype=torch.float64)
    made = torch.tensor(number, dtype=kind)
    if kind not in {torch.float32, torch.float64} and made.item() != number:
        raise RuntimeError(f"{number} is not {made.item()}, of type {kind}")
    return made


def compiled(takes: Sequence[Name], calls: Sequence[Call], held: Mapping[str, Tensor], gives: Sequence[Name]) -> Play:
    """The function of what it `takes` that makes these calls, one after the other, with tensors that it takes, makes
    or are `held`, and returns what it `gives`. It leaves no trace for gradients, whoever calls it.

    Raises RuntimeError where the interpreter has not just this operation; the function, where an operation fails.
    """
    function = torch._C._create_function_from_graph("play", Written(takes, calls, held, gives).graph)
    unwatched = torch._C._InferenceMode  # what `torch.inference_mode` is but for its Python
    improve = torch._C._set_graph_executor_optimize

    def play(*given: Tensor) -> list[Tensor]:
        improve(False)  # by what is known of the first tensors it is given
        try:
            with unwatched(True):
                return function(*given)
        except RuntimeError as error:  # which begins with where the interpreter was
            raise RuntimeError(str(error).rpartition("RuntimeError: ")[2].strip()) from None
        finally:
            improve(True)

    return play


class Written:
    """Calls as a graph of torch's interpreter."""

    def __init__(
        self, takes: Sequence[Name], calls: Sequence[Call], held: Mapping[str, Tensor], gives: Sequence[Name]
    ) -> None:
        self.graph: Any = torch._C.Graph()  # which its annotations tell only half of
        self.held = held
        self.values = {name: self.graph.addInput(name) for name in takes}
        for call in calls:
            self._add(call)
        self.graph.registerOutput(self._listed([self._told(name) for name in gives], torch.TensorType.get()))

    def _add(self, call: Call) -> None:
        schema = call.kind._schema
        args = [self._told(arg, argument.type) for arg, argument in zip(call.args, schema.arguments, strict=True)]
        made = self._node(schema.name, args, len(schema.returns))
        if made.schema() != str(schema):
            raise RuntimeError(f"{made.schema()} would be done for {schema}")
        outputs = [made.outputsAt(n) for n in range(len(schema.returns))]
        if call.made and isinstance(kind := schema.returns[0].type, torch.ListType):
            outputs[0].setType(kind)
            parts = self._node("prim::ListUnpack", outputs, len(call.made))
            outputs = [parts.outputsAt(n) for n in range(len(call.made))]
        self.values |= {name: output for name, output in zip(call.made, outputs, strict=False) if name}

    def _told(self, arg: Any, kind: Any = None) -> Any:
        """An argument of that type, as the graph has it."""
        kind = kind.getElementType() if isinstance(kind, torch.OptionalType) else kind
        if isinstance(arg, Name):
            if arg not in self.values:
                self.values[arg] = self.graph.insertConstant(self.held[arg])
            return self.values[arg]
        if isinstance(arg, (list, tuple)):
            of = kind.getElementType()
            if arg and isinstance(of, ALIKE) and all(not isinstance(one, Name) or one in self.held for one in arg):
                return self.graph.insertConstant([self.held[one] if isinstance(one, Name) else one for one in arg])
            return self._listed([self._told(one, of) for one in arg], of)
        return self.graph.insertConstant(LAYOUTS.get(arg, arg))

    def _listed(self, values: Sequence[Any], of: Any) -> Any:
        made = self._node("prim::ListConstruct", values, 1).output()
        made.setType(torch.ListType(of))
        return made

    def _node(self, name: str, inputs: Sequence[Any], n_outputs: int) -> Any:
        return self.graph.insertNode(self.graph.create(name, inputs, n_outputs))
