"""What the machine does while a stage works, under the names by which MLflow's page of a run knows them."""

import os
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from retrace.journal import Event

MB = 1e6
DRIVER = Path("/proc/driver/nvidia/version")


class Meter:
    """Reads CPU, memory and the GPU in use; a reading takes about a millisecond."""

    def __init__(self, pid: int) -> None:
        self.pid, self.n_read, self.gpu = pid, 0, _gpu()
        psutil.cpu_percent()  # counts from here

    def event(self) -> Event:
        """A line of the journal, as of now."""
        self.n_read += 1
        return {"kind": "metrics", "time": time.time_ns() // 1_000_000, "step": self.n_read, "values": self._values()}

    def _values(self) -> dict[str, float]:
        memory = psutil.virtual_memory()
        values = {
            "system/cpu_utilization_percentage": psutil.cpu_percent(),
            "system/system_memory_usage_megabytes": memory.used / MB,
            "system/system_memory_usage_percentage": memory.percent,
        }
        with suppress(psutil.NoSuchProcess):
            values["system/process_memory_usage_megabytes"] = psutil.Process(self.pid).memory_info().rss / MB
        return values | (_of_gpu(self.gpu) if self.gpu is not None else {})


def _of_gpu(gpu: Any) -> dict[str, float]:
    import pynvml

    values: dict[str, float] = {}
    with suppress(pynvml.NVMLError):  # not every driver tells everything, a part of a GPU (MIG) little
        used = pynvml.nvmlDeviceGetMemoryInfo(gpu)
        values["system/gpu_0_memory_usage_megabytes"] = float(used.used) / MB
        values["system/gpu_0_memory_usage_percentage"] = 100 * float(used.used) / float(used.total)
    with suppress(pynvml.NVMLError):
        values["system/gpu_0_utilization_percentage"] = float(pynvml.nvmlDeviceGetUtilizationRates(gpu).gpu)
    with suppress(pynvml.NVMLError):
        values["system/gpu_0_power_usage_watts"] = float(pynvml.nvmlDeviceGetPowerUsage(gpu)) / 1000
    return values


def _gpu() -> Any:
    """None, or the driver's hold on the GPU that torch takes: the first that CUDA_VISIBLE_DEVICES leaves."""
    if not DRIVER.exists():
        return None
    import pynvml

    first = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0].strip()
    try:
        pynvml.nvmlInit()
        of = pynvml.nvmlDeviceGetHandleByIndex if first.isdigit() else pynvml.nvmlDeviceGetHandleByUUID
        return of(int(first) if first.isdigit() else first)
    except pynvml.NVMLError:
        return None
