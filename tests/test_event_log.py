"""The event log as a file."""

import os
import shutil
from pathlib import Path
from typing import NoReturn

import numpy as np
import pytest

from retrace import event_log
from retrace.errors import RetraceError
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


def test_event_log_goes_on_after_a_full_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    log = EventLog(tmp_path, stage="train")
    write = os.write
    with monkeypatch.context() as full:
        full.setattr(os, "write", lambda file, data: write(file, data[:9]))
        log.metrics({"val_loss": 1.0}, 1)
        log.metrics({"val_loss": 2.0}, 2)
    log.end("FINISHED")
    events = event_log.read(log.path)
    assert [event["kind"] for event in events] == ["start", "lost", "end"]
    assert events[1]["values"].keys() == {event_log.LATER}
    assert "No space left" in capsys.readouterr().err


def test_event_log_names_what_is_lost(tmp_path: Path) -> None:
    log = EventLog(tmp_path, stage="train")
    log.artifact(Path("none.csv"), root=tmp_path)
    with log.recording("code.patch"):
        raise RetraceError("git\nfailed")
    log.end("FINISHED")
    lost = [event["values"] for event in event_log.read(log.path) if event["kind"] == "lost"]
    reason = f"{tmp_path}/none.csv: No such file or directory"
    assert lost == [{"none.csv": reason}, {"code.patch": "git failed"}]


def kill(*_: object, **__: object) -> NoReturn:
    raise KeyboardInterrupt


def test_killed_archive_leaves_no_pending_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without its copies, an event log that is uploaded again would say that they are lost."""
    logs = [EventLog(tmp_path, stage="train") for _ in range(3)]
    for log in logs:
        log.attach("notes.txt", b"notes")
        log.end("FINISHED")
    first, second, running = (log.path for log in logs)
    with monkeypatch.context() as killed, pytest.raises(KeyboardInterrupt):
        killed.setattr(shutil, "rmtree", kill)
        event_log.archive(first)
    assert event_log.pending(tmp_path) == sorted([second, running])
    event_log.archive(second)
    folders = {path for path in tmp_path.iterdir() if path.is_dir()}
    assert folders == {tmp_path / "uploaded", event_log.copies(running)}
