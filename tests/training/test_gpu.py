"""What a GPU does differently, where there is none: by stand-ins for torch.cuda on the CPU, and by fake tensors."""

import json
import random
import subprocess
import sys
from collections.abc import Callable

import pytest
import torch
from cuda_graphs import Graph, Posing, stand_in
from repository import ROOT
from test_checkpoint import KINDS, Training, whole_and_gone_on
from torch import Tensor, nn

from lab.data import batches
from lab.data.samples import Samples
from lab.training import cuda_graph
from lab.training.cuda_graph import NOT_CAPTURED, StepFunction
from retrace.errors import ParamsError
from retrace.pipeline import params_file

pytestmark = [pytest.mark.usefixtures("folder"), pytest.mark.xdist_group("gpu")]

PLURALS = {
    "loss": "losses",
    "optimizer": "optimizers",
    "augmentation": "augmentations",
    "model": "models",
}
ONLY_THERE = {"a running mean"}  # torch's RMSprop lets its steps be captured on a GPU alone


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> list[Graph]:
    """All that are made, in the place of CUDA graphs."""
    return stand_in(monkeypatch)


def training(stripes: Samples, **changed: object) -> Training:
    """One that takes its CPU for a GPU."""
    posing = Training(stripes, **changed)
    posing.trainer.compute = Posing(**vars(posing.trainer.compute))
    return posing


def refused(*_: object) -> StepFunction:
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
        "the graph gives other bits",
    ),
}


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ONLY_THERE])
def test_steps_as_a_graph_move_the_weights_as_plain_ones(
    stripes: Samples, graphs: list[Graph], monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    recorded = training(stripes, **KINDS[kind])
    kept = recorded.run()
    (graph,) = graphs
    assert (
        graph.n_replays == recorded.state.step - cuda_graph.WARM_UP + 1
    )  # and once to be compared
    monkeypatch.setattr(cuda_graph, "capture", refused)
    plain = training(stripes, **KINDS[kind])
    assert plain.run() == kept
    assert plain.steps == recorded.steps
    assert plain.bits() == recorded.bits()


def test_a_stopped_training_goes_on_to_the_same_bits(stripes: Samples, graphs: list[Graph]) -> None:
    kind = KINDS["chance in the network, batch norm, augmentation"]
    whole, second = whole_and_gone_on(lambda: training(stripes, **kind))
    assert len(graphs) == 3
    assert second.bits() == whole.bits()


def test_each_size_of_batch_is_a_graph_of_its_own(stripes: Samples, graphs: list[Graph]) -> None:
    training(stripes, batch_size=60, epochs=4).run()  # 280 samples: four of 60, and 40
    assert [graph.n_replays for graph in graphs] == [
        4 * 4 - cuda_graph.WARM_UP + 1,
        4 - cuda_graph.WARM_UP + 1,
    ]


@pytest.mark.parametrize("why", NOT_CAPTURABLE)
def test_a_step_that_a_graph_cannot_repeat_stays_plain(
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


def test_a_graph_that_ignores_its_batch_is_not_used(
    stripes: Samples,
    graphs: list[Graph],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def of_one_batch(step: StepFunction, inputs: Tensor, labels: Tensor) -> StepFunction:
        replay = capture(step, inputs, labels)
        return lambda *_: replay(inputs, labels)

    capture = cuda_graph.capture
    monkeypatch.setattr(cuda_graph, "capture", of_one_batch)
    training(stripes).run()
    assert f"{NOT_CAPTURED}: the graph gives other bits" in capsys.readouterr().out
    assert [graph.n_replays for graph in graphs] == [1]


def test_what_is_captured_is_not_done_before_it_is_replayed(graphs: list[Graph]) -> None:
    weight = torch.ones(2)
    with torch.cuda.graph(graph := torch.cuda.CUDAGraph()):
        doubled = weight.mul_(2) + 0
    assert weight.tolist() == [1, 1]
    assert doubled.isnan().all()
    graph.replay()
    graph.replay()
    assert doubled.tolist() == weight.tolist() == [4, 4]
    assert graphs == [graph]


@pytest.fixture(scope="module")
def complaints() -> dict[str, str]:
    """What is wrong with each training on a GPU of fake tensors; nothing, if nothing is."""
    ended = subprocess.run(
        [sys.executable, "tests/fake_gpu.py"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout)


@pytest.mark.parametrize("table", ["recipe", "loss", "optimizer", "augmentation", "model"])
def test_a_gpu_has_all_at_hand_waits_for_nothing_and_is_deterministic(
    complaints: dict[str, str], values: params_file.Values, table: str
) -> None:
    of_table = {name: said for name, said in complaints.items() if name.startswith(f"{table} ")}
    entries = (
        [file.stem for file in (ROOT / "recipes").iterdir()]
        if table == "recipe"
        else values[PLURALS[table]]
    )
    assert of_table == {
        f"{table} {name}": "" for name in [*entries, *(["of both"] if table == "loss" else [])]
    }


@pytest.mark.parametrize(
    ("defect", "reason"),
    [
        ("reads a number", "_local_scalar_dense waits for the GPU"),
        ("picks samples", "index waits for the GPU"),
        ("fetches labels", "_to_copy copies between the GPU and the CPU"),
        ("pools in any order", "_adaptive_avg_pool2d_backward gives other bits each time"),
    ],
)
def test_what_is_no_good_on_a_gpu_is_found(
    complaints: dict[str, str], defect: str, reason: str
) -> None:
    assert complaints[f"broken: {defect}"] == reason


def test_data_that_a_gpu_has_no_room_for_is_refused_in_a_line(
    stripes: Samples, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 19.53 KiB.")

    monkeypatch.setattr(Tensor, "to", full)
    said = (
        "params.yaml: the data takes 0.0 GB, for which the GPU's memory has no room; `device: cpu`"
    )
    with pytest.raises(ParamsError, match=said):
        batches.on_device(stripes, torch.device("cuda"))
