"""The device and the precision, and memory that runs out."""

import pytest
import torch

from lab import params
from lab.training import device
from retrace.errors import ParamsError


def hardware(**changed: object) -> params.Hardware:
    return params.Hardware.model_validate({"device": "auto", "threads": 1} | changed)


def test_settings_choose_device_and_precision() -> None:
    best = "cuda" if torch.cuda.is_available() else "cpu"
    assert device.configure(hardware(), "auto").device.type == best
    assert device.configure(hardware(device="cpu"), "bfloat16").precision is torch.bfloat16
    assert str(device.configure(hardware(device="cpu"), "float32")) == "cpu, 1 thread, float32"
    assert torch.are_deterministic_algorithms_enabled()


def test_out_of_memory_names_the_batch_size() -> None:
    pattern = "batch_size is 512, .* 4000000000000000 bytes"
    with pytest.raises(ParamsError, match=pattern), device.enough_memory(512):
        torch.empty(10**15)
    with pytest.raises(RuntimeError, match="tensor size"), device.enough_memory(512):
        torch.matmul(torch.empty(2), torch.empty(3))


def test_missing_gpu_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ParamsError, match="device is 'cuda'"):
        device.configure(hardware(device="cuda"), "auto")
