"""What a stage did, as it did it: an append-only file of JSON lines that outlives the process and any server.

The first line says which stage of which experiment; then parameters, metrics and artifacts in the order of their
making; the last line says how it ended. A killed stage leaves a journal without an end. Beside it, in a folder of its
name, are copies of its artifacts, for the files themselves may be gone or others when they are uploaded. What MLflow
has in full is moved to `uploaded/`, and its copies are deleted.
"""

import csv
import io
import json
import os
import shutil
import sys
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from retrace import processes
from retrace.errors import DataError
from retrace.redaction import redacted_all

Event = dict[str, Any]


class Journal:
    """Open for one stage. A line is one event, written at once and whole; epochs are synced to the disk.

    Raises DataError where it cannot be begun. A disk that fills up later costs one line of warning and the events
    that did not fit, not the stage.
    """

    def __init__(self, folder: Path, **header: Any) -> None:
        self.id = f"{time.strftime('%Y%m%dT%H%M%S')}-{header['stage']}-{uuid.uuid4().hex[:8]}"
        self.path, self.header, self.has_model = folder / f"{self.id}.jsonl", header, False
        self._full = False
        start = {"kind": "start", "time": now(), "id": self.id, "process": processes.identity()}
        line = json.dumps(redacted_all(start | header)) + "\n"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            unfinished = folder / f".{self.id}"
            self._file = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o644)
            _append(self._file, line)
            os.fsync(self._file)
            unfinished.rename(self.path)
        except OSError as error:
            (folder / f".{self.id}").unlink(missing_ok=True)
            raise DataError(f"{folder}: no journal can be written there ({error.strerror}); make room for it") from None

    def metrics(self, values: Mapping[str, float], step: int = 0, at: int | None = None) -> None:
        """These metrics had these values at this step; now, or `at` a time in milliseconds since 1970."""
        self._tell("metrics", {"step": step, "values": dict(values)} | ({} if at is None else {"time": at}))

    def headline(self, values: Mapping[str, float]) -> None:
        """By these final figures, which the stage also has as metrics, whole pipelines are compared."""
        self._tell("headline", {"step": 0, "values": dict(values)})

    def tags(self, **tags: str) -> None:
        """Facts about the run that are neither parameter nor metric."""
        self._tell("tags", redacted_all({"values": tags}))

    def artifact(self, path: Path, *, headline: bool = False) -> None:
        """The stage made this file, and people want to look at it; a headline one belongs to the whole pipeline."""
        self._keep(path, partial(shutil.copyfile, path))
        self._tell("artifact", {"path": str(path), "headline": headline})

    def attach(self, name: str, content: bytes) -> None:
        """The run has this as an artifact, which is no file of the stage's."""
        self._keep(Path(name), lambda copy: copy.write_bytes(content))
        self._tell("artifact", {"path": name, "headline": False})

    def table(self, name: str, rows: Sequence[NamedTuple]) -> None:
        """The run has these rows, one or more of a kind, as a CSV file."""
        text = io.StringIO()
        lines = csv.writer(text, lineterminator="\n")
        lines.writerow(rows[0]._fields)
        lines.writerows(rows)
        self.attach(name, text.getvalue().encode())

    def model(self, weights: Path, card: Path) -> None:
        """The stage made this model."""
        for path in (weights, card):
            self._keep(path, partial(shutil.copyfile, path))
        self.has_model = True
        self._tell("model", {"weights": str(weights), "card": str(card)})

    def end(self, status: str, **more: Any) -> None:
        """Nothing follows. `status` is MLflow's: FINISHED, FAILED or KILLED."""
        self._tell("end", redacted_all({"status": status} | more))
        self.sync()
        os.close(self._file)

    def sync(self) -> None:
        """All events so far are on the disk."""
        if not self._full:
            os.fsync(self._file)

    def _keep(self, path: Path, write: Callable[[Path], object]) -> None:
        copy = copies(self.path) / path
        try:
            copy.parent.mkdir(parents=True, exist_ok=True)
            write(copy)
        except OSError as error:
            with suppress(OSError):
                copy.unlink(missing_ok=True)  # half of one would be taken for the whole
            print(f"warning: {path}: no copy for MLflow could be made ({error.strerror})", file=sys.stderr)

    def _tell(self, kind: str, event: Event) -> None:
        if self._full:
            return
        try:
            _append(self._file, json.dumps({"kind": kind, "time": now(), **event}) + "\n")
        except OSError as error:
            self._full = True
            print(f"warning: {self.path}: {error.strerror}; MLflow will lack what follows", file=sys.stderr)


def read(path: Path) -> list[Event]:
    """The events of a journal; lines that a kill or a full disk cut short are left out."""
    return read_from(path, 0)[0]


def read_from(path: Path, position: int) -> tuple[list[Event], int]:
    """The events of the whole lines from the byte `position` on, and the position after them."""
    with path.open("rb") as file:
        file.seek(position)
        data = file.read()
    whole = data[: data.rfind(b"\n") + 1]
    return [event for line in whole.splitlines() if (event := _parsed(line))], position + len(whole)


def copies(path: Path) -> Path:
    """Where the artifacts of the journal at `path` are kept until they are uploaded."""
    return path.with_suffix("")


def close(path: Path) -> None:
    """The journal of a stage whose process is gone has an end: KILLED, at the time of its last sign of life."""
    events = read(path)
    if events and not end_of(events):
        said = "its process ended without a word: SIGKILL, out of memory, or the power failed"
        append(path, {"kind": "end", "time": events[-1]["time"], "status": "KILLED", "error": said})


def end_of(events: list[Event]) -> Event | None:
    """How the stage ended; not always the last line, which may be another process's."""
    return next((event for event in events if event["kind"] == "end"), None)


def is_over(path: Path) -> bool:
    """Whether nobody writes the journal at `path` any more."""
    try:
        events = read(path)
    except FileNotFoundError:  # uploaded just now, by another process
        return True
    if not events or events[0]["kind"] != "start" or end_of(events):
        return True
    return not processes.alive(events[0]["process"])


def append(path: Path, event: Event) -> None:
    """A journal has one event more, from another process than the stage's."""
    torn = not path.read_bytes().endswith(b"\n")
    written = os.open(path, os.O_WRONLY | os.O_APPEND)
    try:
        _append(written, ("\n" if torn else "") + json.dumps(event) + "\n")
        os.fsync(written)
    finally:
        os.close(written)


def pending(folder: Path) -> list[Path]:
    """The journals that MLflow does not have in full, oldest first."""
    return sorted(folder.glob("*.jsonl"))


def uploaded(path: Path) -> None:
    """The journal at `path` is no longer pending, and its copies are deleted."""
    shutil.rmtree(copies(path), ignore_errors=True)
    done = path.parent / "uploaded"
    done.mkdir(exist_ok=True)
    path.rename(done / path.name)


def _append(file: int, line: str) -> None:
    data = line.encode()
    if os.write(file, data) != len(data):
        raise OSError(28, "No space left on device")


def _parsed(line: bytes) -> Event | None:
    try:
        event = json.loads(line)
    except ValueError:
        return None
    return event if isinstance(event, dict) and "kind" in event else None


def now() -> int:
    """Milliseconds since 1970, as events have them."""
    return time.time_ns() // 1_000_000
