"""System metrics of a running stage."""

import os

from retrace.tracking import system_metrics


def test_meter_uses_names_of_mlflow() -> None:
    meter = system_metrics.Meter(os.getpid())
    first, second = meter.event(), meter.event()
    assert (first["step"], second["step"]) == (1, 2)
    assert set(second["values"]) >= {
        "system/cpu_utilization_percentage",
        "system/system_memory_usage_megabytes",
        "system/process_memory_usage_megabytes",
    }
    assert 10 < second["values"]["system/process_memory_usage_megabytes"] < 100_000
