"""PyTorch's compiler is not imported, and would be without `fast_startup`."""

import subprocess
import sys
from collections.abc import Callable
from functools import partial

import pytest
import torch
from repository import ROOT, environment
from torch import nn, optim

from lab.training.optimizers import OPTIMIZERS
from retrace.pipeline import params_yaml

TRAIN = """
import sys, torch
from lab import params
from lab.training import device
from lab.training.optimizers import OPTIMIZERS
from retrace.pipeline import params_yaml
device.configure(params.load(params.Evaluate), "float32")
assert torch.are_deterministic_algorithms_enabled()
for name, settings in params_yaml.read()["optimizers"].items():
    weight = torch.nn.Parameter(torch.ones(3))
    optimizer = OPTIMIZERS[name]([weight], **settings)
    weight.sum().backward()
    optimizer.step()
    optimizer.zero_grad()
    optimizer.load_state_dict(optimizer.state_dict())
"""
STEP = """
import sys, torch
weight = torch.nn.Parameter(torch.ones(3))
weight.sum().backward()
torch.optim.SGD([weight]).step()
"""
ZERO_GRAD = """
import sys, torch
torch.optim.SGD([torch.nn.Parameter(torch.ones(3))]).zero_grad()
"""
DETERMINISTIC = """
import sys, torch
torch.use_deterministic_algorithms(True)
"""
PRINT = """
print(*(name for name in ("torch._dynamo", "torch._inductor", "sympy") if name in sys.modules))
"""


def imported(script: str) -> list[str]:
    """Run a script in a new process. Return the parts of the compiler that it imported."""
    command = [sys.executable, "-c", script + PRINT]
    env = environment(ROOT) | {"PYTHONPATH": "src"}
    ended = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=True)
    return ended.stdout.split()


def test_training_imports_no_compiler() -> None:
    assert imported(TRAIN) == []


@pytest.mark.parametrize("script", [STEP, ZERO_GRAD], ids=["step", "zero_grad"])
def test_without_dynamo_is_still_needed(script: str) -> None:
    assert "torch._dynamo" in imported(script)


def test_the_debug_mode_is_still_needed() -> None:
    assert "torch._inductor" in imported(DETERMINISTIC)


@pytest.mark.parametrize(
    ("name", "original"),
    [
        ("sgd", partial(optim.SGD, fused=True)),
        ("adam", partial(optim.Adam, fused=True)),
        ("adamw", partial(optim.AdamW, fused=True)),
        ("rmsprop", optim.RMSprop),
    ],
)
def test_without_dynamo_gives_the_same_bits(
    values: params_yaml.Values, name: str, original: Callable[..., optim.Optimizer]
) -> None:
    results = []
    for create in (OPTIMIZERS[name], original):
        weight = nn.Parameter(torch.linspace(-3, 2, 50))
        optimizer = create([weight], **values["optimizers"][name])
        for step in range(20):
            optimizer.param_groups[0]["lr"] = 0.01 * (step + 1)
            (weight**2).sum().backward()
            optimizer.step()
            optimizer.zero_grad()
        assert weight.isfinite().all()
        results.append(weight.detach())
    torch.testing.assert_close(*results, rtol=0, atol=0)
