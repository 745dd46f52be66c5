"""`batch_size: auto`: which size fits, and that looking for it changes nothing."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from trainings import Training

from lab.data.samples import Samples
from lab.params import AUTO
from lab.training import batch_size
from lab.training.loop import Trainer
from retrace.errors import ParamsError

pytestmark = pytest.mark.usefixtures("folder")
N = 280  # training samples of a Training; 256 is the largest power of two


def test_auto_trains_like_its_number(stripes: Samples) -> None:
    auto = Training(stripes, batch_size="auto", model="cifar_v3", epochs=1)
    assert auto.trainer.p.batch_size == AUTO
    before = torch.get_rng_state()
    size = batch_size.choose(auto.trainer)
    assert torch.equal(torch.get_rng_state(), before)
    batch_size.use(auto.trainer, size)
    auto.run()
    number = Training(stripes, batch_size=size, model="cifar_v3", epochs=1)
    torch.set_rng_state(before)
    number.run()
    assert auto.bits() == number.bits()


@pytest.mark.parametrize("fitting", [2, 16, 1000])
def test_cpu_size_follows_free_memory(
    stripes: Samples, monkeypatch: pytest.MonkeyPatch, fitting: int
) -> None:
    trainer = Training(stripes, batch_size="auto").trainer
    per_sample = batch_size._need(trainer, 5) - batch_size._need(trainer, 4)
    free = int(per_sample * batch_size.CPU_FACTOR * (fitting + 1))
    monkeypatch.setattr(batch_size.memory, "free", lambda: free)
    assert batch_size.choose(trainer) == min(fitting, 256)


def test_too_many_parts_are_refused(stripes: Samples) -> None:
    trainer = Training(stripes, batch_size="auto", accumulation=200).trainer
    with pytest.raises(ParamsError, match="accumulation is 200, .* should be 128 or less"):
        batch_size.choose(trainer)


def test_accumulation_multiplies_cpu_size(
    stripes: Samples, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = Training(stripes, batch_size="auto").trainer
    need = (batch_size._need(trainer, 8) - batch_size._need(trainer, 4)) / 4
    monkeypatch.setattr(batch_size.memory, "free", lambda: int(need * batch_size.CPU_FACTOR * 17))
    assert batch_size.choose(trainer) == 16
    parts = Training(stripes, batch_size="auto", accumulation=4).trainer
    assert batch_size.choose(parts) == 64


def test_later_unfrozen_backbone_is_measured(
    stripes: Samples, monkeypatch: pytest.MonkeyPatch
) -> None:
    changed = {"batch_size": "auto", "model": "cifar_v3", "freeze_backbone": True, "epochs": 2}
    frozen = Training(stripes, **changed).trainer
    unfreezing = Training(stripes, **changed, unfreeze_epoch=1).trainer
    need = (batch_size._need(frozen, 8) - batch_size._need(frozen, 4)) / 4
    monkeypatch.setattr(batch_size.memory, "free", lambda: int(need * batch_size.CPU_FACTOR * 65))
    assert batch_size.choose(frozen) == 64
    assert batch_size.choose(unfreezing) < 64
    assert unfreezing.state.model.trunk_is_frozen
    assert unfreezing.state.model.frozen()  # they are trained later


def test_cpu_need_counts_kept_tensors(stripes: Samples) -> None:
    trainer = Training(stripes, batch_size="auto", model="softmax").trainer
    per_sample = (batch_size._need(trainer, 8) - batch_size._need(trainer, 4)) / 4
    # Kept: 64 pixels as float32 and 3 log-probabilities and a label; the layer: 64 in and out.
    assert 4 * 64 <= per_sample <= 4 * 64 * 5


class SmallGPU:
    """Stands for a GPU: steps with more samples than `fitting` run out of memory."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, stripes: Samples, fitting: int) -> None:
        trainer = Training(stripes, batch_size="auto").trainer
        compute = dataclasses.replace(trainer.compute, device=torch.device("cuda"))
        self.trainer = dataclasses.replace(trainer, compute=compute)
        self.fractions: list[float] = []
        self.sizes: list[int] = []
        step = Trainer.step

        def limited(trainer: Trainer, inputs: Any, labels: Any) -> Any:
            self.sizes.append(len(labels))
            if len(labels) > fitting:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
            return step(trainer, inputs, labels)

        monkeypatch.setattr(Trainer, "step", limited)
        monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", self.fractions.append)
        monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)


@pytest.mark.parametrize(("fitting", "size"), [(2, 2), (100, 64), (N, 256)])
def test_gpu_size_is_the_largest_tried(
    stripes: Samples, monkeypatch: pytest.MonkeyPatch, fitting: int, size: int
) -> None:
    gpu = SmallGPU(monkeypatch, stripes, fitting)
    weights = {
        name: value.clone()
        for name, value in gpu.trainer.state.state_dict().items()
        if isinstance(value, torch.Tensor)
    }
    assert batch_size.choose(gpu.trainer) == size
    assert gpu.fractions == [batch_size.GPU_FRACTION, 1.0]
    assert max(gpu.sizes) <= 2 * size
    after = gpu.trainer.state.state_dict()
    assert all(torch.equal(after[name], value) for name, value in weights.items())
    assert not gpu.trainer.state.optimizer.state


def test_gpu_without_room_for_two(stripes: Samples, monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = SmallGPU(monkeypatch, stripes, 1)
    with pytest.raises(ParamsError, match=r"batch_size is 2, .*2\.00 GiB"):
        batch_size.choose(gpu.trainer)
    assert gpu.fractions[-1] == 1.0


def test_other_errors_are_not_memory(stripes: Samples, monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = SmallGPU(monkeypatch, stripes, N)

    def broken(*_: object) -> None:
        raise RuntimeError("an illegal instruction")

    monkeypatch.setattr(Trainer, "step", broken)
    with pytest.raises(RuntimeError, match="illegal"):
        batch_size.choose(gpu.trainer)


def test_resumed_auto_keeps_its_size(
    stripes: Samples, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lab.training import recorder, state_file
    from retrace.checkpoint import Checkpoints

    class Run:
        metrics: dict[str, float]

        def log(self, metrics: dict[str, float]) -> None:
            self.metrics = metrics

    checkpoints = Checkpoints(folder)
    checkpoints.save(7, lambda: state_file.encode({"batch_size": 32, "weight": torch.zeros(1)}))
    monkeypatch.setattr(batch_size, "choose", lambda _: 128)
    resumed = Training(stripes, batch_size="auto").trainer
    run: Any = Run()
    recorder.choose_batch_size(run, checkpoints, resumed)
    assert resumed.p.batch_size == 32
    assert run.metrics == {"batch_size": 32}
    checkpoints.delete()
    fresh = Training(stripes, batch_size="auto").trainer
    recorder.choose_batch_size(run, Checkpoints(folder / "other"), fresh)
    assert run.metrics == {"batch_size": 128}


def test_auto_is_for_one_process(stripes: Samples) -> None:
    with pytest.raises(ParamsError, match="processes is 2, but batch_size is auto"):
        Training(stripes, batch_size="auto", processes=2)
