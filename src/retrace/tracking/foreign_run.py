"""A run in an MLflow store that is not ours, as it is logged in a stage's event log."""

import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import unquote

MAX_BYTES = 20 * 10**6  # of an artifact; larger files stay where they are
MAX_FILES = 200  # artifacts
MAX_POINTS = 100_000  # metrics, the last of each
LOCAL = "file://"


@dataclass(frozen=True)
class ForeignRun:
    """A run, with its metrics as (key, value, time, step)."""

    id: str
    name: str
    experiment: str
    store: str
    status: str
    start_time: int
    end_time: int | None
    artifacts: Path | None
    params: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    metrics: list[tuple[str, float, int, int]] = field(default_factory=list)

    def values(self) -> dict[str, Any]:
        """Return the run for an event log, without its artifacts."""
        values = {key: value for key, value in asdict(self).items() if key != "artifacts"}
        return values | {"metrics": self.metrics[-MAX_POINTS:]}

    def files(self) -> dict[str, Path]:
        """Return the artifacts, by their path in the run."""
        return dict(islice(self._small(), MAX_FILES))

    def _small(self) -> Iterator[tuple[str, Path]]:
        folder = self.artifacts
        for file in sorted(folder.rglob("*")) if folder and folder.is_dir() else ():
            if file.is_file() and file.stat().st_size <= MAX_BYTES:
                yield os.fspath(file.relative_to(folder or file)), file


def local(uri: str, root: Path) -> Path | None:
    """Return the folder of an artifact URI; None if it is on a server or in a bucket."""
    path = unquote(uri.removeprefix(LOCAL).removeprefix("file:"))
    return None if "://" in path or ":/" in path else root / path
