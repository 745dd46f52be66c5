"""MLflow's database as rows: grow a store to many runs in seconds, and count changed rows.

A large store is a real one with copied rows. Each copy looks like another experiment, with its own
key, output hashes and test accuracy.
"""

import re
import sqlite3
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

TABLES = (
    "runs",
    "tags",
    "params",
    "metrics",
    "latest_metrics",
    "inputs",
    "input_tags",
    "logged_models",
    "logged_model_tags",
    "logged_model_metrics",
)
NAMES = """
    SELECT run_uuid FROM runs
    UNION SELECT model_id FROM logged_models
    UNION SELECT input_uuid FROM inputs
    UNION SELECT replace(substr(key, 21), '.dir', '') FROM tags
    WHERE key LIKE 'mlflow.retrace.made.%'
    UNION SELECT value FROM tags
    WHERE key IN ('retrace.key', 'mlflow.retrace.journal', 'mlflow.retrace.inputs')
"""
HOLE = "\0"  # placeholder in a row for the copy's number
APART_MS = 60_000  # between the start times of two copies

Row = tuple[Any, ...]


def copy(database: Path, target: Path) -> None:
    """Copy the database to `target`, even while another process has it open."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with closing(sqlite3.connect(database)) as source, closing(sqlite3.connect(target)) as into:
        source.backup(into)


def grow(database: Path, n_runs: int) -> None:
    """Copy whole experiments until the database has at least `n_runs` runs."""
    with closing(sqlite3.connect(database)) as connected, connected:
        n_existing = _count(connected)
        n_copies = max(0, -(-(n_runs - n_existing) // n_existing))
        # A copy's number is not hexadecimal, so no copy takes an existing name.
        names = re.compile("|".join(re.escape(name) for (name,) in connected.execute(NAMES)))
        for table in TABLES:
            columns = [column for _, column, *_ in connected.execute(f"PRAGMA table_info({table})")]
            select = f"SELECT * FROM {table}"  # noqa: S608 - our own table names
            rows = [_open(row, names) for row in connected.execute(select)]
            marks = ", ".join("?" * len(columns))
            insert = f"INSERT INTO {table} VALUES ({marks})"  # noqa: S608 - our own table names
            connected.executemany(insert, _copies(columns, rows, n_copies))


def runs(database: Path) -> int:
    """Return the number of runs in the database."""
    with closing(sqlite3.connect(database)) as connected:
        return _count(connected)


def rows(database: Path) -> Counter[tuple[Any, ...]]:
    """Return every row of every table, with the table's name."""
    with closing(sqlite3.connect(database)) as connected:
        query = "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'"
        tables = [name for (name,) in connected.execute(query)]
        select = {table: f'SELECT * FROM "{table}"' for table in tables}  # noqa: S608 - our names
        return Counter(
            (table, *row) for table in tables for row in connected.execute(select[table])
        )


def changed(before: Counter[tuple[Any, ...]], after: Counter[tuple[Any, ...]]) -> int:
    """Count the rows that are in only one of them; a changed row counts twice."""
    return (before - after).total() + (after - before).total()


def _count(connected: sqlite3.Connection) -> int:
    return connected.execute("SELECT count(*) FROM runs").fetchone()[0]


def _open(row: Row, names: re.Pattern[str]) -> Row:
    return tuple(
        names.sub(lambda name: name[0][:-6] + HOLE, cell) if isinstance(cell, str) else cell
        for cell in row
    )


def _copies(columns: list[str], rows: list[Row], n_copies: int) -> Iterator[Row]:
    for number in range(1, n_copies + 1):
        for row in rows:
            yield tuple(
                _filled(column, cell, number, n_copies)
                for column, cell in zip(columns, row, strict=True)
            )


def _filled(column: str, cell: Any, number: int, n_copies: int) -> Any:
    if isinstance(cell, str):
        return cell.replace(HOLE, f"x{number:05}")
    if column in {"start_time", "end_time"} and cell is not None:
        return cell + APART_MS * number
    if column == "value" and isinstance(cell, float):
        # 7919 is prime: all copies get different values, in no order.
        return cell * (1 + number * 7919 % n_copies) / (n_copies + 1)
    return cell
