"""The formats of `retrace export`: each writes a model file and runs it without this repository."""

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save

from lab.models import classifier
from lab.models.classifier import Classifier, ModelConfig
from lab.serving import definition

Run = Callable[[np.ndarray], np.ndarray]  # raw inputs (n, *shape) to logits (n, classes)

INPUT, OUTPUT = "pixels", "logits"  # names in an ONNX file


@dataclass(frozen=True)
class Format:
    """How a network is written to a folder and run from there.

    `imports`, `load` and `call` are the lines of example.py that differ between formats.
    """

    file: str
    write: Callable[[Classifier, ModelConfig, Path], None]
    open: Callable[[Path], Run]
    packages: str
    imports: str
    load: str
    call: str


def _program(model: Classifier, config: ModelConfig) -> torch.export.ExportedProgram:
    """Trace the network, for batches of any size."""
    model.eval().requires_grad_(requires_grad=False).to(memory_format=torch.contiguous_format)
    example = classifier.example(config, 2)  # two: one would fix the batch size
    shapes = ({0: torch.export.Dim("batch")},)
    return torch.export.export(model, (example,), dynamic_shapes=shapes)


def _write_onnx(model: Classifier, config: ModelConfig, folder: Path) -> None:
    program = torch.onnx.export(
        _program(model, config),
        dynamo=True,
        input_names=[INPUT],
        output_names=[OUTPUT],
        verbose=False,
    )
    if program is None:
        raise RuntimeError("torch.onnx.export returned nothing")
    program.save(folder / "model.onnx", external_data=False)


def _open_onnx(folder: Path) -> Run:
    import onnxruntime

    session = onnxruntime.InferenceSession(folder / "model.onnx")
    return lambda inputs: np.asarray(session.run([OUTPUT], {INPUT: inputs})[0])


def _write_pt2(model: Classifier, config: ModelConfig, folder: Path) -> None:
    torch.export.save(_program(model, config), folder / "model.pt2")


def _open_pt2(folder: Path) -> Run:
    return _run(torch.export.load(folder / "model.pt2").module())


def _write_safetensors(model: Classifier, config: ModelConfig, folder: Path) -> None:
    text = definition.text(model, config)
    (folder / "network.py").write_text(text, encoding="utf-8")
    # Not `save_file`, whose files only their owner can read.
    (folder / "model.safetensors").write_bytes(save(definition.renamed(model)))


def _open_safetensors(folder: Path) -> Run:
    spec = importlib.util.spec_from_file_location("network", folder / "network.py")
    if spec is None or spec.loader is None:
        raise ImportError(f"{folder}/network.py can't be imported")
    module: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    network = module.Network()
    network.load_state_dict(load_file(folder / "model.safetensors"))
    return _run(network.eval())


def _run(network: Callable[[torch.Tensor], torch.Tensor]) -> Run:
    def run(inputs: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return network(torch.from_numpy(inputs)).numpy()

    return run


FORMATS = {
    "onnx": Format(
        file="model.onnx",
        write=_write_onnx,
        open=_open_onnx,
        packages="numpy onnxruntime pillow",
        imports="import onnxruntime",
        load='network = onnxruntime.InferenceSession(folder / "model.onnx")',
        call=f'network.run(None, {{"{INPUT}": inputs}})[0]',
    ),
    "pt2": Format(
        file="model.pt2",
        write=_write_pt2,
        open=_open_pt2,
        packages="numpy pillow torch",
        imports="import torch",
        load='network = torch.export.load(folder / "model.pt2").module()',
        call="network(torch.tensor(inputs)).detach().numpy()",
    ),
    "safetensors": Format(
        file="model.safetensors",
        write=_write_safetensors,
        open=_open_safetensors,
        packages="numpy pillow safetensors torch",
        imports="import torch\n"
        "from network import Network\n"
        "from safetensors.torch import load_file",
        load="network = Network().eval()\n"
        'network.load_state_dict(load_file(folder / "model.safetensors"))',
        call="network(torch.tensor(inputs)).detach().numpy()",
    ),
}
