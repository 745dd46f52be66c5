"""System metrics of a running stage, under the names that the MLflow UI expects.

`system/process_*` are those of the stage's process tree, the others those of the machine. GPUs have
the numbers by which the stage knows them: `system/gpu_0_*` is torch's cuda:0.
"""

import os
import time
from collections.abc import Collection, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from retrace.event_log import Event, now

MB = 1e6
DRIVER = Path("/proc/driver/nvidia/version")


class Meter:
    """Reads CPU, memory and GPU use of the stage's process and of all below it, except this one.

    A reading takes some milliseconds of CPU time, most of it to find the processes.


    `pid` is the stage's process. Of a wrapped stage it is DVC's, whose own memory does not count.
    """

    def __init__(self, pid: int, *, is_wrapped: bool = False) -> None:
        self.pid = pid
        self.is_wrapped = is_wrapped
        self.gpus = _visible_gpus()
        self.n_readings = 0
        psutil.cpu_percent()  # starts the interval that the next call reports
        self._read_at = time.monotonic()
        self._cpu_s = sum(map(_cpu_s, self._tree()))

    def event(self) -> Event:
        """Take a reading; return it as an event for the event log."""
        self.n_readings += 1
        return {"kind": "metrics", "time": now(), "step": self.n_readings, "values": self._values()}

    def _values(self) -> dict[str, float]:
        values = {
            "system/cpu_utilization_percentage": psutil.cpu_percent(),
            "system/system_memory_usage_percentage": psutil.virtual_memory().percent,
        }
        tree = self._tree()
        if tree:
            values |= self._process_values(tree)
        for number in _used_gpus(self.gpus, {process.pid for process in tree}):
            values |= _gpu_values(number, self.gpus[number])
        return values

    def _process_values(self, tree: list[psutil.Process]) -> dict[str, float]:
        """Return the use of a process tree: 100 % is one core; shared memory counts repeatedly."""
        read_at = time.monotonic()
        cpu_s = sum(map(_cpu_s, tree))
        rate = max(cpu_s - self._cpu_s, 0.0) / max(read_at - self._read_at, 1e-3)
        self._read_at = read_at
        self._cpu_s = cpu_s
        return {
            "system/process_cpu_utilization_percentage": 100 * rate,
            "system/process_memory_usage_megabytes": sum(map(_rss, tree)) / MB,
        }

    def _tree(self) -> list[psutil.Process]:
        """Return the process and those below it; none if it no longer exists."""
        with suppress(psutil.Error):
            process = psutil.Process(self.pid)
            below = process.children(recursive=True)
            own = [] if self.is_wrapped else [process]
            return [*own, *(child for child in below if child.pid != os.getpid())]
        return []


def _cpu_s(process: psutil.Process) -> float:
    """Return the CPU time of a process and of its children that have ended."""
    with suppress(psutil.Error):
        times = process.cpu_times()
        return times.user + times.system + times.children_user + times.children_system
    return 0.0


def _rss(process: psutil.Process) -> int:
    with suppress(psutil.Error):
        return process.memory_info().rss
    return 0


def _gpu_values(number: int, gpu: Any) -> dict[str, float]:
    import pynvml

    prefix = f"system/gpu_{number}"
    values: dict[str, float] = {}
    # Not every driver reports everything, and a GPU partition (MIG) reports little.
    with suppress(pynvml.NVMLError):
        memory = pynvml.nvmlDeviceGetMemoryInfo(gpu)
        share = float(memory.used) / float(memory.total)
        values[f"{prefix}_memory_usage_megabytes"] = float(memory.used) / MB
        values[f"{prefix}_memory_usage_percentage"] = 100 * share
    with suppress(pynvml.NVMLError):
        rates = pynvml.nvmlDeviceGetUtilizationRates(gpu)
        values[f"{prefix}_utilization_percentage"] = float(rates.gpu)
    with suppress(pynvml.NVMLError):
        values[f"{prefix}_power_usage_watts"] = float(pynvml.nvmlDeviceGetPowerUsage(gpu)) / 1000
    return values


def _used_gpus(gpus: dict[int, Any], pids: Collection[int]) -> list[int]:
    """Return the numbers of the GPUs that a process of `pids` uses.

    It is the first GPU if the driver does not report processes, or reports those of another PID
    namespace, as it may in a container.
    """
    if not gpus:
        return []
    import pynvml

    users: dict[int, set[int]] = {}
    for number, gpu in gpus.items():
        with suppress(pynvml.NVMLError):
            running = pynvml.nvmlDeviceGetComputeRunningProcesses(gpu)
            users[number] = {process.pid for process in running}
    reported = set[int]().union(*users.values())
    if not reported or not all(map(psutil.pid_exists, reported)):
        return [min(gpus)]
    return [number for number in users if users[number].intersection(pids)]


def _visible_gpus() -> dict[int, Any]:
    """Return the driver's handles of the GPUs that torch can use, by torch's number."""
    return dict(enumerate(_handles())) if DRIVER.exists() else {}


def _handles() -> Iterator[Any]:
    """Yield the driver's handles, in the order of CUDA_VISIBLE_DEVICES up to an invalid entry."""
    import pynvml

    with suppress(pynvml.NVMLError):
        pynvml.nvmlInit()
        every = ",".join(map(str, range(pynvml.nvmlDeviceGetCount())))
        for name in os.environ.get("CUDA_VISIBLE_DEVICES", every).split(","):
            if name.strip().isdigit():
                yield pynvml.nvmlDeviceGetHandleByIndex(int(name))
            else:
                yield pynvml.nvmlDeviceGetHandleByUUID(name.strip())
