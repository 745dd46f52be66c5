"""Read the runs in a folder of MLflow's file store (`mlruns/`), of any version.

    mlruns/<experiment>/meta.yaml
    mlruns/<experiment>/<run>/{meta.yaml, params/KEY, tags/KEY, metrics/KEY, artifacts/}

MLflow 3.17 itself refuses such a store.
"""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from retrace.pipeline import yaml_files
from retrace.tracking.foreign_run import ForeignRun, local

STATUS = {1: "RUNNING", 2: "SCHEDULED", 3: "FINISHED", 4: "FAILED", 5: "KILLED"}


def is_store(folder: Path) -> bool:
    """Return whether a folder is a file store."""
    return any(folder.glob("*/meta.yaml"))


def runs(folder: Path, since: int, store: str) -> Iterator[ForeignRun]:
    """Yield the runs that were created or changed since then, in milliseconds since 1970.

    Raises an exception of `yaml_files.INVALID` or OSError if the store is not valid.
    """
    for meta in sorted(folder.glob("*/*/meta.yaml")):
        if _changed(meta.parent) < since:
            continue
        info = yaml_files.parse(meta.read_text(encoding="utf-8"))
        if "run_id" not in info or info.get("lifecycle_stage") == "deleted":
            continue  # a model, for example
        tags = _texts(meta.parent / "tags")
        yield ForeignRun(
            id=str(info["run_id"]),
            name=str(info.get("run_name") or tags.get("mlflow.runName") or info["run_id"]),
            experiment=_experiment(meta.parent.parent),
            store=store,
            status=STATUS.get(info["status"], "FINISHED"),
            start_time=int(info["start_time"]),
            end_time=info.get("end_time"),
            artifacts=_artifacts(meta.parent, info),
            params=_texts(meta.parent / "params"),
            tags=tags,
            metrics=list(_metrics(meta.parent / "metrics")),
        )


def _changed(run: Path) -> int:
    """Return when the newest of a run's keys, metrics or status changed."""
    paths = [run / "meta.yaml", run / "tags", run / "params", *(run / "metrics").rglob("*")]
    return max(path.stat().st_mtime_ns for path in paths if path.exists()) // 10**6


def _experiment(folder: Path) -> str:
    with suppress(OSError, *yaml_files.INVALID):
        return str(yaml_files.parse((folder / "meta.yaml").read_text(encoding="utf-8"))["name"])
    return folder.name


def _artifacts(run: Path, info: dict[str, Any]) -> Path | None:
    """Return the run's artifacts: in its own folder, also if the store was moved."""
    own = run / "artifacts"
    return own if own.is_dir() else local(str(info.get("artifact_uri", "")), run)


def _files(folder: Path) -> Iterator[tuple[str, str]]:
    for file in sorted(folder.rglob("*")):
        if file.is_file():
            text = file.read_text(encoding="utf-8", errors="replace")
            yield file.relative_to(folder).as_posix(), text


def _texts(folder: Path) -> dict[str, str]:
    return dict(_files(folder))


def _metrics(folder: Path) -> Iterator[tuple[str, float, int, int]]:
    """Yield the lines of the metrics: time, value and step, the last not in old versions."""
    for key, text in _files(folder):
        for line in text.splitlines():
            at, value, *rest = line.split(" ")
            yield key, float(value), int(at), int(rest[0]) if rest else 0
