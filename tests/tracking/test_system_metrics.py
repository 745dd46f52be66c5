"""System metrics of a running stage."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import psutil
import pytest

from retrace.tracking import system_metrics

MEMORY = "system/process_memory_usage_megabytes"
CPU = "system/process_cpu_utilization_percentage"
ALLOCATE = "memory = b'x' * 200_000_000"
BURN = "import time\nwhile time.process_time() < 0.5: pass"
GRANDCHILD = (
    "import subprocess, sys\n"
    "child = subprocess.Popen([sys.executable, '-c', {code!r}], stdin=0, stdout=1)\n"
    "child.wait()"
)


def test_meter_uses_names_of_mlflow() -> None:
    meter = system_metrics.Meter(os.getpid())
    first, second = meter.event(), meter.event()
    assert (first["step"], second["step"]) == (1, 2)
    assert set(second["values"]) >= {
        "system/cpu_utilization_percentage",
        "system/system_memory_usage_percentage",
        "system/process_memory_usage_megabytes",
    }
    assert 10 < second["values"]["system/process_memory_usage_megabytes"] < 100_000


@contextmanager
def child(code: str, *, below: bool = False) -> Iterator[subprocess.Popen[str]]:
    """Run Python code in a child, or in a child of a child; enter the block when it is done.

    The child ends after the block.
    """
    code += "\nprint(flush=True)\ninput()"
    code = GRANDCHILD.format(code=code) if below else code
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin
        assert process.stdout
        process.stdout.readline()
        yield process
        process.stdin.write("\n")


@pytest.mark.parametrize("below", [False, True])
def test_memory_is_that_of_the_tree(*, below: bool) -> None:
    meter = system_metrics.Meter(os.getpid())
    before = meter.event()["values"][MEMORY]
    with child(ALLOCATE, below=below) as process:
        during = meter.event()["values"][MEMORY]
        of_child = system_metrics.Meter(process.pid).event()["values"][MEMORY]
    after = meter.event()["values"][MEMORY]
    assert during - before > 190
    assert during - after > 190
    assert 200 < of_child < 300


@pytest.mark.parametrize("below", [False, True])
@pytest.mark.parametrize("has_ended", [False, True])
def test_cpu_is_that_of_the_tree(*, below: bool, has_ended: bool) -> None:
    started = time.monotonic()
    meter = system_metrics.Meter(os.getpid())
    with child(BURN, below=below):
        values = meter.event()["values"] if not has_ended else {}
    values = values or meter.event()["values"]
    assert values[CPU] / 100 * (time.monotonic() - started) > 0.48  # the clock's tick is 0.01
    time.sleep(0.5)  # an interval of many ticks
    assert meter.event()["values"][CPU] < 400


def test_ended_process_is_no_error() -> None:
    with child("") as process:
        meter = system_metrics.Meter(process.pid)
        assert {MEMORY, CPU} <= meter.event()["values"].keys()
    values = meter.event()["values"]
    assert not {MEMORY, CPU} & values.keys()
    assert "system/cpu_utilization_percentage" in values
    assert MEMORY not in system_metrics.Meter(process.pid).event()["values"]


def test_process_that_vanishes_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    with child("") as process:
        gone = psutil.Process(process.pid)
    monkeypatch.setattr(psutil.Process, "children", lambda *_, **__: [gone])
    values = system_metrics.Meter(os.getpid()).event()["values"]
    assert values[MEMORY] > 0


def test_meter_does_not_measure_itself() -> None:
    """A process of its own starts the meter: this one may have children of other tests."""
    code = (
        f"{ALLOCATE}; import os; from retrace.tracking.system_metrics import Meter; "
        f"print(Meter(os.getppid()).event()['values']['{MEMORY}'])"
    )
    above = (
        "import psutil, subprocess, sys; "
        "subprocess.run([sys.executable, '-c', sys.argv[1]], check=True); "
        "print(psutil.Process().memory_info().rss / 1e6)"
    )
    command = [sys.executable, "-c", above, code]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=os.environ)
    measured, own = map(float, done.stdout.split())
    assert measured == pytest.approx(own, abs=20)


def test_reading_is_cheap() -> None:
    processes = [
        subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
        for _ in range(20)
    ]
    meter = system_metrics.Meter(os.getpid())
    before = time.process_time()
    for _ in range(5):
        meter.event()
    cpu_s = (time.process_time() - before) / 5
    for process in processes:
        process.communicate(b"\n")
    assert cpu_s < 0.05


class Driver(ModuleType):
    """A driver that reports GPUs a to d, their memory, and processes by GPU."""

    NVMLError = OSError

    def __init__(self, users: dict[str, list[int]] | None) -> None:
        super().__init__("pynvml")
        self.users = users

    def nvmlInit(self) -> None:  # noqa: N802
        pass

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        return 4

    def nvmlDeviceGetHandleByIndex(self, index: int) -> str:  # noqa: N802
        return "abcd"[index]

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:  # noqa: N802
        if not uuid.startswith("GPU-"):
            raise self.NVMLError
        return uuid.removeprefix("GPU-")

    def nvmlDeviceGetComputeRunningProcesses(self, handle: str) -> list[Any]:  # noqa: N802
        if self.users is None:
            raise self.NVMLError
        return [SimpleNamespace(pid=pid) for pid in self.users.get(handle, [])]

    def nvmlDeviceGetMemoryInfo(self, handle: str) -> Any:  # noqa: N802
        return SimpleNamespace(used=("abcd".index(handle) + 1) * 1e6, total=1e7)

    def nvmlDeviceGetUtilizationRates(self, _: str) -> Any:  # noqa: N802
        raise self.NVMLError

    def nvmlDeviceGetPowerUsage(self, _: str) -> int:  # noqa: N802
        return 70_000


ME = os.getpid()
INIT = 1
NOBODY = 2**30


@pytest.mark.parametrize(
    ("visible", "users", "megabytes"),
    [
        (None, {"b": [ME], "c": [INIT, ME], "d": [INIT]}, {1: 2.0, 2: 3.0}),
        (None, {"b": [INIT]}, {}),
        (None, {}, {0: 1.0}),
        (None, None, {0: 1.0}),
        (None, {"b": [NOBODY]}, {0: 1.0}),
        ("2,1", None, {0: 3.0}),
        ("2,1", {"b": [ME]}, {1: 2.0}),
        ("GPU-d, 0", {"d": [ME], "a": [ME]}, {0: 4.0, 1: 1.0}),
        ("1,-1,2", {"b": [ME], "c": [ME]}, {0: 2.0}),
        ("", {"a": [ME]}, {}),
    ],
)
def test_gpus_are_those_of_the_tree(
    monkeypatch: pytest.MonkeyPatch,
    visible: str | None,
    users: dict[str, list[int]] | None,
    megabytes: dict[int, float],
) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", Driver(users))
    monkeypatch.setattr(system_metrics, "DRIVER", Path(__file__))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    values = system_metrics.Meter(ME).event()["values"]
    gpu = {name: value for name, value in values.items() if name.startswith("system/gpu_")}
    assert gpu == {
        f"system/gpu_{number}_{name}": value
        for number, used in megabytes.items()
        for name, value in (
            ("memory_usage_megabytes", used),
            ("memory_usage_percentage", used * 10),
            ("power_usage_watts", 70.0),
        )
    }
