"""The event log as a file."""

from pathlib import Path

import numpy as np

from retrace import event_log
from retrace.event_log import EventLog


def test_event_log_skips_torn_last_line(tmp_path: Path) -> None:
    log = EventLog(tmp_path, stage="train")
    log.metrics({"val_loss": 1.0}, 1)
    log.end("FINISHED")
    whole = log.path.read_bytes()
    kinds = [event["kind"] for event in event_log.read(log.path)]
    assert kinds == ["start", "metrics", "end"]
    log.path.write_bytes(whole[:-5])
    assert [event["kind"] for event in event_log.read(log.path)] == kinds[:-1]


def test_event_log_keeps_nan(tmp_path: Path) -> None:
    log = EventLog(tmp_path, stage="train")
    log.metrics({"val_loss": float("nan")})
    log.end("FAILED")
    assert np.isnan(event_log.read(log.path)[1]["values"]["val_loss"])
