"""Optimizers that do not import PyTorch's compiler.

Importing torch._dynamo takes about two seconds, and nothing here is compiled. Only this module and
processes.py use private attributes of PyTorch. tests/training/test_fast_startup.py fails once this
module is not needed any longer.
"""

from typing import Any

import torch
from torch import optim


def without_dynamo(optimizer: type[optim.Optimizer]) -> Any:
    """Return a subclass that does not import torch._dynamo; exempt the methods of all optimizers.

    Results are bit-identical.

    `step` imports it to mark a graph break (pytorch/pytorch#104053), the other methods to exempt
    themselves from compilation (torch._disable_dynamo, which looks for `__dynamo_disable`).
    """
    for method in vars(optim.Optimizer).values():
        plain = getattr(method, "__wrapped__", None)
        if plain:
            setattr(plain, "__dynamo_disable", plain)
    step = torch.no_grad()(getattr(optimizer.step, "__wrapped__", optimizer.step))
    return type(optimizer.__name__, (optimizer,), {"step": step})
