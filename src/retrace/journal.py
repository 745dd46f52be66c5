"""What a stage did, as it did it: an append-only file of JSON lines that outlives the process and any server.

The first line says which stage of which experiment; then parameters, metrics and artifacts in the order of their
making; the last line says how it ended. A killed stage leaves a journal without an end. MLflow is filled from it.
"""

import json
import os
import socket
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

Event = dict[str, Any]


class Journal:
    """Open for one stage. A line is at most one event, written at once; epochs are synced to the disk."""

    def __init__(self, folder: Path, **header: Any) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.id = f"{time.strftime('%Y%m%dT%H%M%S')}-{header['stage']}-{uuid.uuid4().hex[:8]}"
        self.path = folder / f"{self.id}.jsonl"
        self._file = self.path.open("x", encoding="utf-8", buffering=1)  # a line at a time
        self._write("start", id=self.id, host=socket.gethostname(), pid=os.getpid(), **header)
        self.sync()

    def metrics(self, values: Mapping[str, float], step: int = 0) -> None:
        """These metrics had these values at this step."""
        self._write("metrics", step=step, values=dict(values))

    def headline(self, values: Mapping[str, float]) -> None:
        """By these final figures, which the stage also has as metrics, whole pipelines are compared."""
        self._write("headline", step=0, values=dict(values))

    def tags(self, **tags: str) -> None:
        """Facts about the run that are neither parameter nor metric."""
        self._write("tags", values=tags)

    def artifact(self, path: Path, *, headline: bool = False) -> None:
        """The stage made this file, and people want to look at it; a headline one belongs to the whole pipeline."""
        self._write("artifact", path=str(path), headline=headline)

    def model(self, weights: Path, card: Path) -> None:
        """The stage made this model."""
        self._write("model", weights=str(weights), card=str(card))

    def end(self, status: str, **more: Any) -> None:
        """Nothing follows. `status` is MLflow's: FINISHED, FAILED or KILLED."""
        self._write("end", status=status, **more)
        self.sync()
        self._file.close()

    def sync(self) -> None:
        """All events so far are on the disk."""
        self._file.flush()
        os.fsync(self._file.fileno())

    def _write(self, kind: str, **event: Any) -> None:
        self._file.write(json.dumps({"kind": kind, "time": time.time_ns() // 1_000_000, **event}) + "\n")


def read(path: Path) -> list[Event]:
    """The events of a journal; a last line that a kill cut short is left out."""
    lines = path.read_text(encoding="utf-8").split("\n")
    return [json.loads(line) for line in lines[:-1]]
