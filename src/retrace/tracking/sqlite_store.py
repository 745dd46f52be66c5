"""Read the runs in a SQLite file of any MLflow version, without changing it.

MLflow itself refuses a database of another version, and creates tables in one without.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

from retrace.tracking.foreign_run import ForeignRun, local

RUNS = """
SELECT runs.*, experiments.name AS experiment_name
FROM runs JOIN experiments ON runs.experiment_id = experiments.experiment_id
WHERE runs.lifecycle_stage = 'active' AND (
  runs.start_time >= :since OR runs.end_time >= :since
  OR EXISTS (SELECT 1 FROM latest_metrics AS latest
             WHERE latest.run_uuid = runs.run_uuid AND latest.timestamp >= :since)
)
ORDER BY runs.start_time
"""
TEXTS = "SELECT key, value FROM {table} WHERE run_uuid = ?"
METRICS = """
SELECT key, CASE WHEN is_nan THEN 'nan' ELSE value END, timestamp, step
FROM metrics WHERE run_uuid = ? ORDER BY timestamp, step
"""


def runs(file: Path, since: int, store: str) -> Iterator[ForeignRun]:
    """Yield the runs that were created or changed since then, in milliseconds since 1970.

    Raises sqlite3.Error if the file is not a database of MLflow.
    """
    with closing(sqlite3.connect(f"file:{quote(str(file))}?mode=ro", uri=True)) as connection:
        connection.row_factory = sqlite3.Row
        for row in connection.execute(RUNS, {"since": since}).fetchall():
            yield _run(connection, row, file, store)


def _run(connection: sqlite3.Connection, row: sqlite3.Row, file: Path, store: str) -> ForeignRun:
    run = row["run_uuid"]
    tags = _texts(connection, "tags", run)
    metrics = connection.execute(METRICS, (run,)).fetchall()
    return ForeignRun(
        id=run,
        name=row["name"] or tags.get("mlflow.runName") or run,
        experiment=row["experiment_name"],
        store=store,
        status=row["status"],
        start_time=row["start_time"],
        end_time=row["end_time"],
        artifacts=local(row["artifact_uri"] or "", file.parent),
        params=_texts(connection, "params", run),
        tags=tags,
        metrics=[(key, float(value), at, step) for key, value, at, step in metrics],
    )


def _texts(connection: sqlite3.Connection, table: str, run: str) -> dict[str, str]:
    return dict(connection.execute(TEXTS.format(table=table), (run,)).fetchall())
