"""The model's layers as a table: reports/summary.txt."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lab import paths
from lab.models import classifier
from lab.models.classifier import Classifier, ModelConfig
from retrace.system import files

COLUMNS = ("layer", "type", "output shape", "parameters")


class Layer(NamedTuple):
    """A module without submodules that the forward pass calls."""

    name: str
    kind: str
    shape: tuple[int, ...]  # of its output for a batch of one sample
    n_parameters: int


def save(model: Classifier, config: ModelConfig) -> None:
    """Write the table of the model's layers to reports/summary.txt."""
    example = classifier.example(config, 1).to(model.mean.device)
    with files.atomic(paths.SUMMARY) as unfinished:
        unfinished.write_text(table(model, example), encoding="utf-8")


def table(model: nn.Module, example: Tensor) -> str:
    """Return a line for each layer that the example passes through, and the totals."""
    rows: list[tuple[str, ...]] = [COLUMNS]
    for layer in layers(model, example):
        shape = "x".join(map(str, layer.shape))
        rows.append((layer.name, layer.kind, shape, f"{layer.n_parameters:,}"))
    n_parameters = sum(weight.numel() for weight in model.parameters())
    n_trainable = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
    totals = f"parameters: {n_parameters:,}, of which {n_trainable:,} are trainable\n"
    return "\n".join([*_aligned(rows), "", totals])


def layers(model: nn.Module, example: Tensor) -> list[Layer]:
    """Return the layers that a forward pass calls, each once, without changing the RNG state."""
    called: dict[str, Layer] = {}

    def hook(name: str) -> Any:
        def record(module: nn.Module, _inputs: Any, output: Tensor) -> None:
            n_parameters = sum(weight.numel() for weight in module.parameters())
            called[name] = Layer(name, type(module).__name__, tuple(output.shape), n_parameters)

        return record

    leaves = [(name, module) for name, module in model.named_modules() if not [*module.children()]]
    handles = [module.register_forward_hook(hook(name)) for name, module in leaves]
    try:
        with torch.no_grad():
            model.eval()(example)
    finally:
        for handle in handles:
            handle.remove()
    return list(called.values())


def _aligned(rows: list[tuple[str, ...]]) -> Iterator[str]:
    """Yield the rows as lines, with the last column aligned to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for *cells, last in rows:
        padded = [cell.ljust(width) for cell, width in zip(cells, widths, strict=False)]
        yield "  ".join([*padded, last.rjust(widths[-1])])
