"""How torch is asked for an operation with the least around it."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

aten = torch.ops.aten

# What torch does for them, with less around it: a number becomes a tensor for each tensor, every time; a result may not
# have a place.
QUICKER: dict[Any, Callable[..., tuple[Any, Sequence[Any]]]] = {
    aten._foreach_add_.Scalar: lambda of, n: (aten._foreach_add_.List, (of, [torch.full_like(one, n) for one in of])),
    aten.relu.default: lambda of: (aten.clamp_min.default, (of, 0)),
}

# What torch has as functions of Python's too, which take half a microsecond less to be called; and those with an `out`.
DIRECT = {
    aten._foreach_add_.List,
    aten._fused_adam_.tensor_lr,
    aten._fused_sgd_.tensor_lr,
    aten.addcmul_.default,
    aten.clone.default,
    aten.count_nonzero.default,
    aten.expand.default,
    aten.mean.default,
    aten.permute.default,
    aten.relu_.default,
    aten.squeeze.dim,
    aten.t.default,
    aten.unsqueeze.default,
    aten.view.default,
}
PLACED = {
    aten._addmm_activation.default,
    aten._log_softmax.default,
    aten._log_softmax_backward_data.default,
    aten.add.Tensor,
    aten.addmm.default,
    aten.amax.default,
    aten.clamp_min.default,
    aten.div.Tensor,
    aten.eq.Tensor,
    aten.exp.default,
    aten.gather.default,
    aten.log.default,
    aten.max.dim,
    aten.mm.default,
    aten.mul.Tensor,
    aten.neg.default,
    aten.scatter_add.default,
    aten.sub.Tensor,
    aten.sum.dim_IntList,
}


def plain(kind: Any) -> Callable[..., Any]:
    """A function that does the operation."""
    name = kind._overloadpacket.__name__
    return getattr(torch, name, None) or getattr(Tensor, name) if kind in DIRECT or kind in PLACED else kind._op


@functools.cache
def placing(kind: Any) -> tuple[Callable[..., Any], str] | None:
    """The same operation into tensors that it is given, and how it is told these, if torch has a kernel for it."""
    if kind in PLACED:
        n = len(kind._schema.returns)
        return plain(kind), "out={}" if n == 1 else f"out=({', '.join(['{}'] * n)})"
    told = [(argument.name, str(argument.type)) for argument in kind._schema.arguments]
    for name in kind._overloadpacket.overloads():
        other = getattr(kind._overloadpacket, name)
        outs = [argument.name for argument in other._schema.arguments if argument.is_out]
        rest = [(argument.name, str(argument.type)) for argument in other._schema.arguments if not argument.is_out]
        if outs and rest == told and torch.Tag.generated not in other.tags:
            return other._op, ", ".join(f"{out}={{}}" for out in outs)
    return None
