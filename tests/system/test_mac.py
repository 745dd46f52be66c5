"""What a Mac lacks, hidden on Linux: the fallbacks. Nothing here was run on a Mac."""

import os
import shutil
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from conftest import typed

from lab import doctor, params
from lab.data import memmap
from lab.training import device, processes
from lab.training.device import Compute
from retrace.errors import DataError, ParamsError
from retrace.system import machine, memory
from retrace.system import processes as engine_processes

PARENT = """
import subprocess, sys
from retrace.system import processes
processes.LIBC = object()  # without prctl
child = subprocess.Popen(["sleep", "60"], preexec_fn=processes.die_with_parent)
print(child.pid, flush=True)
sys.stdin.read()
"""


def test_child_ends_with_its_killed_parent() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PARENT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout
        child = psutil.Process(int(parent.stdout.readline()))
        assert child.is_running()
        parent.kill()
    gone, _ = psutil.wait_procs([child], timeout=30)
    assert gone or child.status() == psutil.STATUS_ZOMBIE


def test_process_without_prctl_leaves_no_watcher() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PARENT.replace('"60"', '"0"').replace("sys.stdin.read()", "")],
        stdout=subprocess.PIPE,
        text=True,
    ) as parent:
        parent.communicate(timeout=30)  # the watcher does not hold the pipe
    assert parent.returncode == 0


def test_identity_without_proc(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(engine_processes, "BOOT", tmp_path / "none")
    monkeypatch.setattr(engine_processes, "MACHINE", tmp_path / "none")
    who = engine_processes.identity()
    assert engine_processes.alive(who)
    assert who["boot"] == str(int(psutil.boot_time()))


def test_memory_without_cgroups(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(memory, "OWN_GROUPS", tmp_path / "none")
    assert 0 < memory.free() <= psutil.virtual_memory().total


def test_large_array_without_fallocate(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    del folder
    monkeypatch.delattr(os, "posix_fallocate")
    monkeypatch.setattr(memmap, "MAX_FRACTION", 0.0)
    rows = memmap.empty((3, 5), np.dtype(np.float32))
    assert isinstance(rows, np.memmap)
    rows[:] = 1.5
    assert rows.sum() == 22.5
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(100, 90, 10))
    with pytest.raises(DataError, match="no room for 60 bytes"):
        memmap.empty((3, 5), np.dtype(np.float32))


def test_processor_is_asked_of_sysctl(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = subprocess.CompletedProcess((), 0, "Apple M9\n")
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: answer)
    assert machine.processor() == "Apple M9"
    (finding,) = doctor.processor()
    assert "mps" in finding.what


@pytest.fixture
def mac(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(machine, "processor", lambda: "Apple M9")


@pytest.mark.usefixtures("mac")
@pytest.mark.parametrize(("name", "chosen"), [("auto", "mps"), ("mps", "mps"), ("cpu", "cpu")])
def test_mac_has_a_gpu(name: str, chosen: str) -> None:
    hardware = params.Hardware.model_validate({"device": name, "threads": 1})
    assert device.configure(hardware, "auto").device.type == chosen


@pytest.mark.usefixtures("mac")
def test_mps_computes_in_float32() -> None:
    hardware = params.Hardware.model_validate({"device": "mps", "threads": 1})
    compute = device.configure(hardware, "auto")
    assert f"{compute}".startswith("mps, Apple M9, float32")
    assert not compute.is_gpu  # no CUDA graphs


def test_missing_mps_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    hardware = params.Hardware.model_validate({"device": "mps", "threads": 1})
    with pytest.raises(ParamsError, match="device is 'mps'.* use auto or cpu"):
        device.configure(hardware, "auto")


@pytest.mark.usefixtures("folder")
def test_mps_is_for_one_process() -> None:
    compute = Compute(torch.device("mps"), torch.float32, 1)
    with (
        pytest.raises(ParamsError, match="processes is 2.* -S device=cpu"),
        processes.joined(typed(params.Train, processes=2), compute),
    ):
        pass
