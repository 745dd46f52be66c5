"""Metrics by which experiments are compared: of a metrics file, or of a stage's run in MLflow."""

from collections.abc import Iterable
from pathlib import Path

from retrace.pipeline import metrics
from retrace.provenance.run_index import RunIndex
from retrace.store import backend, cached_stages
from retrace.store.names import SYSTEM

MAX_CURVES = 50  # metrics of a run whose history is read


def of_file(file: Path, suffix: str = "", prefix: str = "") -> dict[str, float]:
    """Return the numbers of a metrics file; none if it does not exist or cannot be parsed.

    `suffix` is that of its format, if the file has another one, as in DVC's cache.
    """
    try:
        numbers = metrics.parse(file.read_bytes(), suffix or file.suffix).numbers
    except (ValueError, OSError):
        return {}
    return {f"{prefix}{key}": value for key, value in numbers.items()}


def of_stage(run: backend.Run, index: RunIndex) -> dict[str, float]:
    """Return the summary metrics of a stage's run.

    For a stage that trains, what it logged once is added, such as its seconds.
    """
    summary = cached_stages.summary(run)
    if run.data.tags["retrace.stage"] not in index.pipeline.training:
        return summary
    points = _points(index, run.info.run_id, without=summary)
    return summary | {name: own[0] for name, own in points.items() if list(own) == [0]}


def history(index: RunIndex, runs: Iterable[str]) -> list[dict[str, float]]:
    """Return the metrics that these runs have by step, a row for each step."""
    rows: dict[int, dict[str, float]] = {}
    for run_id in runs:
        for name, points in _points(index, run_id).items():
            for step, value in points.items() if len(points) > 1 else ():
                rows.setdefault(step, {"step": step})[name] = value
    return [rows[step] for step in sorted(rows)]


def _points(
    index: RunIndex, run_id: str, without: Iterable[str] = ()
) -> dict[str, dict[int, float]]:
    """Return a run's metrics by step, but for system metrics."""
    known = set(without)
    names = [name for name in index.client.get_run(run_id).data.metrics if name not in known]
    names = [name for name in names if not name.startswith(SYSTEM)][:MAX_CURVES]
    histories = {name: index.client.get_metric_history(run_id, name) for name in names}
    return {name: {point.step: point.value for point in own} for name, own in histories.items()}
