"""The device and the precision, and memory that runs out."""

import copy
import ctypes
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

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


@pytest.mark.parametrize(
    ("has_bfloat16", "capability", "precision"),
    [
        (True, (8, 0), torch.bfloat16),
        (False, (7, 5), torch.float16),
        (False, (6, 1), torch.float32),
    ],
)
def test_gpu_decides_the_precision(
    monkeypatch: pytest.MonkeyPatch,
    has_bfloat16: bool,
    capability: tuple[int, int],
    precision: torch.dtype,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: has_bfloat16)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    assert device.configure(hardware(), "auto").precision is precision
    assert device.configure(hardware(), "float16").precision is torch.float16


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


def test_variables_that_decide_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in device.DECIDE_BITS:
        monkeypatch.delenv(name, raising=False)
    plain = device.configure(hardware(device="cpu"), "float32")
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    monkeypatch.setenv("ATEN_CPU_CAPABILITY", "default")
    changed = device.configure(hardware(device="cpu"), "float32")
    own = "ATEN_CPU_CAPABILITY=default, ONEDNN_MAX_CPU_ISA=AVX2"
    assert f"{changed}" == f"{plain}, {own}"


def test_openmp_gives_all_threads(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_DYNAMIC", "true")
    monkeypatch.setenv("MKL_NUM_THREADS", "7")
    openmp = ctypes.CDLL(None)
    levels = openmp.omp_get_max_active_levels()
    openmp.omp_set_dynamic(1)
    openmp.omp_set_max_active_levels(0)
    threads = torch.get_num_threads()
    try:
        device.configure(hardware(device="cpu", threads=2), "float32")
        assert openmp.omp_get_dynamic() == 0
        assert openmp.omp_get_max_active_levels() == 1
    finally:
        openmp.omp_set_max_active_levels(levels)
        torch.set_num_threads(threads)
    (line, *_) = capsys.readouterr().err.splitlines()
    assert "MKL_NUM_THREADS=7, OMP_DYNAMIC=true, OMP_MAX_ACTIVE_LEVELS=0 has no effect" in line
    assert "-S threads=N" in line


@pytest.mark.parametrize("name", ["OMP_NUM_THREADS", "MKL_NUM_THREADS", "OMP_DYNAMIC"])
def test_agreeing_variables_are_silent(
    name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, "1")
    device.configure(hardware(device="cpu"), "float32")
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("quota", ["100000 100000\n", "50000 100000\n"])
def test_threads_exceed_the_quota(
    quota: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(device, "QUOTA", tmp_path / "cpu.max")
    device.QUOTA.write_text(quota)
    device.configure(hardware(device="cpu", threads=2), "float32")
    assert "-S threads=1" in capsys.readouterr().err
    device.QUOTA.write_text("max 100000\n")
    device.configure(hardware(device="cpu"), "float32")
    assert capsys.readouterr().err == ""


def test_thread_limit_is_refused() -> None:
    script = "from lab.training import device; device.configure(device.Hardware(device='cpu', "
    script += "threads=2), 'float32')"
    ended = subprocess.run(
        [sys.executable, "-c", script],
        env=os.environ | {"OMP_THREAD_LIMIT": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.stderr.splitlines()[-1].startswith("retrace.errors.ParamsError: params.yaml: ")
    assert "`unset OMP_THREAD_LIMIT`, or use -S threads=1" in ended.stderr


def test_depthwise_convolution_is_in_float32() -> None:
    compute = device.Compute(torch.device("cpu"), torch.bfloat16, 1)
    layers = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 3, groups=4))
    twin = copy.deepcopy(layers)
    compute.prepare(layers)
    images = torch.rand(2, 3, 8, 8)
    with compute.autocast():
        outputs = layers(images)
        inputs = twin[0](images)
        in_bfloat16 = twin[1](inputs)
    in_float32 = twin[1](inputs.float())
    assert outputs.dtype == torch.bfloat16
    assert torch.equal(outputs, in_float32.bfloat16())
    assert not torch.equal(outputs, in_bfloat16)
    with torch.no_grad(), compute.autocast():
        assert torch.equal(layers(images), in_bfloat16)  # faster without a gradient
    copied = copy.deepcopy(layers)
    nn.init.zeros_(next(copied[1].parameters()))
    assert not torch.equal(copied(images), layers(images))  # it uses its own weights
    assert torch.equal(layers(images), twin(images))  # in float32 nothing is changed
