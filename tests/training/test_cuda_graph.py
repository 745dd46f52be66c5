"""Training on a GPU, on a machine without one: stand-ins for torch.cuda, and fake tensors."""

import json
import random
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from cuda_graphs import Graph, PosingAsGpu, replace_cuda
from repository import ROOT
from torch import Tensor, nn
from trainings import KINDS, Training, complete_and_resumed

from lab.data.samples import Samples
from lab.training import cuda_graph
from lab.training.cuda_graph import NOT_CAPTURED, StepFunction
from retrace.pipeline import params_yaml

pytestmark = [pytest.mark.usefixtures("folder"), pytest.mark.xdist_group("gpu")]

PLURALS = {
    "loss": "losses",
    "optimizer": "optimizers",
    "augmentation": "augmentations",
    "model": "models",
}
# RMSprop can be captured with tensors of a real GPU only; loss scaling is not captured.
NOT_CAPTURED_KINDS = {"rmsprop", "float16"}


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> list[Graph]:
    """The graphs that are created, which stand in for CUDA graphs."""
    return replace_cuda(monkeypatch)


def training(stripes: Samples, **changed: Any) -> Training:
    """Return a training that takes its CPU for a GPU."""
    result = Training(stripes, **changed)
    result.trainer.compute = PosingAsGpu(**vars(result.trainer.compute))
    return result


def fail_to_capture(*_: object) -> StepFunction:
    raise RuntimeError("no graphs here")


class Scaled(nn.Module):
    """A layer whose output is multiplied by what a Python function returns at every step."""

    def __init__(self, layer: nn.Module, factor: Callable[[Tensor], float]) -> None:
        super().__init__()
        self.layer = layer
        self.factor = factor

    def forward(self, inputs: Tensor) -> Tensor:
        return self.layer(inputs) * self.factor(inputs)


NOT_CAPTURABLE: dict[str, tuple[Callable[[Tensor], float], str]] = {
    "reads a tensor": (
        lambda inputs: 1 + inputs.mean().item(),
        "called a synchronizing CUDA operation",
    ),
    "draws in Python": (
        lambda _: random.random(),  # noqa: S311 - that is the defect
        "the graph's results differ from the step's",
    ),
}


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in NOT_CAPTURED_KINDS])
def test_graph_gives_same_bits_as_steps(
    stripes: Samples, graphs: list[Graph], monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    captured = training(stripes, **KINDS[kind])
    kept = captured.run()
    assert len(graphs) == (2 if kind == "unfreezing" else 1)
    n_comparisons = 1
    n_plain = len(graphs) * (cuda_graph.WARM_UP - n_comparisons)
    assert sum(graph.n_replays for graph in graphs) == captured.state.step - n_plain
    monkeypatch.setattr(cuda_graph, "capture", fail_to_capture)
    plain = training(stripes, **KINDS[kind])
    assert plain.run() == kept
    assert plain.steps == captured.steps
    assert plain.bits() == captured.bits()


def test_resume_gives_same_bits(stripes: Samples, graphs: list[Graph]) -> None:
    kind = KINDS["dropout, batch norm, augmentation"]
    complete, resumed = complete_and_resumed(lambda: training(stripes, **kind))
    assert len(graphs) == 3
    assert resumed.bits() == complete.bits()


def test_each_batch_size_has_its_graph(stripes: Samples, graphs: list[Graph]) -> None:
    training(stripes, batch_size=60, epochs=4).run()  # 280 samples: four of 60, and 40
    assert [graph.n_replays for graph in graphs] == [
        4 * 4 - cuda_graph.WARM_UP + 1,
        4 - cuda_graph.WARM_UP + 1,
    ]


@pytest.mark.parametrize("why", NOT_CAPTURABLE)
def test_step_stays_plain_if_not_capturable(
    stripes: Samples, graphs: list[Graph], capsys: pytest.CaptureFixture[str], why: str
) -> None:
    factor, reason = NOT_CAPTURABLE[why]

    def scaled() -> Training:
        result = training(stripes)
        result.state.model.head = Scaled(result.state.model.head, factor)
        return result

    random.seed(0)
    first, second = scaled(), scaled()
    kept = first.run()
    output = capsys.readouterr().out
    assert output.count(NOT_CAPTURED) == 1
    assert reason in output
    assert sum(graph.n_replays for graph in graphs) == (why == "draws in Python")  # to be compared
    if why == "reads a tensor":
        assert second.run() == kept


def test_graph_with_other_bits_is_not_used(
    stripes: Samples,
    graphs: list[Graph],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    capture = cuda_graph.capture

    def ignore_later_batches(step: StepFunction, inputs: Tensor, labels: Tensor) -> StepFunction:
        replay = capture(step, inputs, labels)
        return lambda *_: replay(inputs, labels)

    monkeypatch.setattr(cuda_graph, "capture", ignore_later_batches)
    training(stripes).run()
    assert f"{NOT_CAPTURED}: the graph's results differ" in capsys.readouterr().out
    assert [graph.n_replays for graph in graphs] == [1]


def test_stand_in_computes_at_replay(graphs: list[Graph]) -> None:
    weight = torch.ones(2)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        doubled = weight.mul_(2) + 0
    assert weight.tolist() == [1, 1]
    assert doubled.isnan().all()
    graph.replay()
    graph.replay()
    assert doubled.tolist() == weight.tolist() == [4, 4]
    assert graphs == [graph]


@pytest.fixture(scope="module")
def defects() -> dict[str, str]:
    """What is wrong with each training on a GPU of fake tensors; empty if nothing is."""
    ended = subprocess.run(
        [sys.executable, "tests/fake_gpu.py"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout)


@pytest.mark.parametrize("table", ["recipe", "loss", "optimizer", "augmentation", "model", "step"])
def test_training_suits_a_gpu(
    defects: dict[str, str], values: params_yaml.Values, table: str
) -> None:
    """Nothing waits for the GPU, is copied to or from it, or is not deterministic there."""
    if table == "recipe":
        entries = [file.stem for file in (ROOT / "recipes").iterdir()]
    elif table == "step":
        entries = ["in parts, clipped, by layers"]
    else:
        entries = list(values[PLURALS[table]])
    if table == "loss":
        entries.append("smoothed and weighted")
    of_table = {name: defect for name, defect in defects.items() if name.startswith(f"{table} ")}
    assert of_table == {f"{table} {name}": "" for name in entries}


@pytest.mark.parametrize(
    ("defect", "reason"),
    [
        ("reads a number", "_local_scalar_dense waits for the GPU"),
        ("picks samples", "index waits for the GPU"),
        ("fetches labels", "_to_copy copies between the GPU and the CPU"),
        ("pools in any order", "_adaptive_avg_pool2d_backward gives other bits each time"),
    ],
)
def test_gpu_defect_is_reported(defects: dict[str, str], defect: str, reason: str) -> None:
    assert defects[f"broken: {defect}"] == reason
