"""System metrics of a running stage, under the names that the MLflow UI expects."""

import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from retrace.event_log import Event, now

MB = 1e6
DRIVER = Path("/proc/driver/nvidia/version")


class Meter:
    """Reads CPU, memory and GPU use; a reading takes about a millisecond."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.gpu = _gpu()
        self.n_readings = 0
        psutil.cpu_percent()  # starts the interval that the next call reports

    def event(self) -> Event:
        """Take a reading; return it as an event for the event log."""
        self.n_readings += 1
        return {"kind": "metrics", "time": now(), "step": self.n_readings, "values": self._values()}

    def _values(self) -> dict[str, float]:
        memory = psutil.virtual_memory()
        values = {
            "system/cpu_utilization_percentage": psutil.cpu_percent(),
            "system/system_memory_usage_megabytes": memory.used / MB,
            "system/system_memory_usage_percentage": memory.percent,
        }
        with suppress(psutil.NoSuchProcess):
            rss = psutil.Process(self.pid).memory_info().rss
            values["system/process_memory_usage_megabytes"] = rss / MB
        return values | (_gpu_values(self.gpu) if self.gpu is not None else {})


def _gpu_values(gpu: Any) -> dict[str, float]:
    import pynvml

    values: dict[str, float] = {}
    # Not every driver reports everything, and a GPU partition (MIG) reports little.
    with suppress(pynvml.NVMLError):
        memory = pynvml.nvmlDeviceGetMemoryInfo(gpu)
        share = float(memory.used) / float(memory.total)
        values["system/gpu_0_memory_usage_megabytes"] = float(memory.used) / MB
        values["system/gpu_0_memory_usage_percentage"] = 100 * share
    with suppress(pynvml.NVMLError):
        rates = pynvml.nvmlDeviceGetUtilizationRates(gpu)
        values["system/gpu_0_utilization_percentage"] = float(rates.gpu)
    with suppress(pynvml.NVMLError):
        values["system/gpu_0_power_usage_watts"] = float(pynvml.nvmlDeviceGetPowerUsage(gpu)) / 1000
    return values


def _gpu() -> Any:
    """Return the driver's handle of the GPU that torch uses; None without a GPU.

    It is the first in CUDA_VISIBLE_DEVICES.
    """
    if not DRIVER.exists():
        return None
    import pynvml

    first = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0].strip()
    try:
        pynvml.nvmlInit()
        if first.isdigit():
            return pynvml.nvmlDeviceGetHandleByIndex(int(first))
        return pynvml.nvmlDeviceGetHandleByUUID(first)
    except pynvml.NVMLError:
        return None
