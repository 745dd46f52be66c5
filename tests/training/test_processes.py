"""Several processes that train together: the sums of one process, and the same bits each time."""

import json
import os
import socket
import subprocess
import sys
from typing import Any

import pytest
import torch
from conftest import typed
from ranks import LOSSES, N_VALIDATION, SIZES, STOPPED_AT, WEIGHTED
from repository import ROOT
from safetensors.torch import load_file
from torch import Tensor

from lab.data.batches import Draws, Split
from lab.params import Train
from lab.training import device, processes
from lab.training.augmentations import AUGMENTATIONS
from lab.training.losses import cross_entropy, of_rows
from lab.training.processes import Group
from retrace.errors import ParamsError
from retrace.pipeline import params_yaml

CPU = torch.device("cpu")
Results = dict[tuple[int, int], dict[str, Any]]  # by size and rank


def free_ports(n: int) -> list[str]:
    """Return ports of loopback that nobody uses."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(n)]
    ports = [str(server.getsockname()[1]) for server in sockets]
    for server in sockets:
        server.close()
    return ports


@pytest.fixture(scope="module")
def computed(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """Return what each process of one, two and three computed."""
    folder = tmp_path_factory.mktemp("ranks")
    ports = free_ports(len(SIZES))
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    started = [
        subprocess.Popen(
            [sys.executable, ROOT / "tests" / "ranks.py", str(rank), folder, *ports],
            cwd=ROOT,
            env=environment,
        )
        for rank in range(max(SIZES))
    ]
    try:
        assert [process.wait(timeout=240) for process in started] == [0] * max(SIZES)
    finally:
        for process in started:  # one that waits for another that failed
            process.kill()
            process.wait()
    return {
        (size, rank): load_file(folder / f"{size}-{rank}.safetensors")
        | json.loads((folder / f"{size}-{rank}.json").read_text())
        for size in SIZES
        for rank in range(size)
    }


def named(results: dict[str, Any], name: str) -> dict[str, Tensor]:
    """Return the tensors whose names begin with `name`."""
    return {
        key.removeprefix(f"{name}/"): tensor
        for key, tensor in results.items()
        if key.startswith(f"{name}/")
    }


@pytest.mark.parametrize("name", LOSSES)
def test_gradients_equal_one_process(computed: Results, name: str) -> None:
    expected = named(computed[1, 0], name)
    assert {key.partition("/")[0] for key in expected} == {"0", "1", "2"}
    for place in computed:
        torch.testing.assert_close(named(computed[place], name), expected, rtol=1e-6, atol=1e-6)


def test_accumulated_gradients_equal_one_pass(computed: Results) -> None:
    expected = named(computed[1, 0], WEIGHTED)
    for place in computed:
        in_parts = named(computed[place], f"in parts: {WEIGHTED}")
        torch.testing.assert_close(in_parts, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("n", N_VALIDATION)
def test_validation_has_bits_of_one_process(computed: Results, n: int) -> None:
    for place in computed:
        assert torch.equal(computed[place][f"logits/{n}"], computed[1, 0][f"logits/{n}"])


def test_training_repeats_to_the_bit(computed: Results) -> None:
    for (size, _), results in computed.items():
        weights = named(results, "complete")
        assert_equal(weights, named(computed[size, 0], "complete"))
        assert_equal(weights, named(results, "again"))
        assert_equal(weights, named(results, "resumed"))
    weights = [named(computed[size, 0], "complete")["head.weight"] for size in SIZES]
    assert not torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[1], weights[2])


def assert_equal(weights: dict[str, Tensor], others: dict[str, Tensor]) -> None:
    assert weights.keys() == others.keys() != set()
    assert [name for name in weights if not torch.equal(weights[name], others[name])] == []


def test_signal_stops_all_after_one_step(computed: Results) -> None:
    steps = {place: results["stopped"] for place, results in computed.items()}
    assert steps.pop((1, 0)) == STOPPED_AT
    assert set(steps.values()) == {STOPPED_AT + 2}  # sent in one step, answered in the next


def test_bytes_are_those_of_the_first(computed: Results) -> None:
    assert {results["bytes"] for results in computed.values()} == {"a" * 10}


@pytest.mark.parametrize(("n", "size"), [(7, 3), (3, 3), (128, 5), (2, 1)])
def test_slices_cover_the_batch(n: int, size: int) -> None:
    slices = [Group(rank, size, CPU).part(n) for rank in range(size)]
    rows = list(range(n))
    assert [row for part in slices for row in rows[part]] == rows
    assert {len(rows[part]) for part in slices} <= {n // size, n // size + 1}


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_slice_is_augmented_as_the_whole(values: params_yaml.Values, name: str) -> None:
    images = torch.randint(0, 256, (10, 3, 12, 12), dtype=torch.uint8)
    settings = values["augmentations"][name]

    def augmented(kept: slice | Tensor) -> Tensor:
        draws = Draws(torch.Generator().manual_seed(0), len(images), kept)
        return AUGMENTATIONS[name](images[kept], draws, (8, 8), **settings)

    whole = augmented(slice(None))
    for kept in (slice(0, 3), slice(3, 10), slice(4, 5), torch.tensor([9, 2])):
        assert torch.equal(augmented(kept), whole[kept])


def test_share_of_a_slice_is_of_its_weights() -> None:
    weighted = cross_entropy(torch.tensor([5, 5]), label_smoothing=0.0, class_weights=[1.0, 9.0])
    logits = torch.randn(4, 2, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0, 0, 0, 1])
    parts = [of_rows(weighted, logits[at], labels, at) for at in (slice(0, 3), slice(3, 4))]
    total = parts[0] + parts[1]
    torch.testing.assert_close(total, weighted(logits, labels))
    plain_mean = 0.75 * weighted(logits[:3], labels[:3]) + 0.25 * weighted(logits[3:], labels[3:])
    assert not torch.isclose(plain_mean, weighted(logits, labels), rtol=0.1)


@pytest.mark.parametrize(
    ("n", "changed", "allowed"),
    [
        (256 + 5, {"processes": 6}, r"batch_size 128 the last batch has 5 samples.* 5 or less"),
        (300, {"processes": 20, "batch_size": 16}, "last batch has 12 samples.* 12 or less"),
        (128, {"processes": 2}, "all 128 training samples.* batch_size below 128"),
        (300, {"processes": 2, "freeze_backbone": True, "augmentation": "none"}, "freeze_backbone"),
    ],
)
def test_what_cannot_be_shared_is_refused(n: int, changed: dict[str, Any], allowed: str) -> None:
    split = Split(torch.zeros(n, 2), torch.zeros(n, dtype=torch.int64))
    with pytest.raises(ParamsError, match=rf"^params.yaml: processes is \d+, .*{allowed}") as error:
        processes.check(typed(Train, **changed), split)
    assert "\n" not in str(error.value)
    processes.check(typed(Train, **(changed | {"processes": 1})), split)


def test_group_of_one_needs_no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "3")  # of an engine around it
    p = typed(Train, device="cpu", threads=1)
    with processes.joined(p, device.configure(p, p.precision)) as group:
        assert group is processes.ALONE


def test_functional_collectives_have_no_public_name() -> None:
    names = [name for name in dir(torch.distributed) if "functional" in name]
    assert names
    assert all(name.startswith("_") for name in names)
