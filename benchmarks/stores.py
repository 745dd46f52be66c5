"""MLflow's database as rows: a store of many runs, made in seconds, and what changed between two looks at one.

A large store is a real one whose rows were copied. A copy is as another experiment would be: its own key, its own
bytes in every output, its own test accuracy.
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
    UNION SELECT replace(value, '.dir', '') FROM tags WHERE key LIKE 'dvc.outs.%'
    UNION SELECT value FROM tags WHERE key IN ('retrace.key', 'retrace.journal', 'retrace.inputs')
"""
HOLE = "\0"  # in a row: where the number of the copy goes
APART_MS = 60_000  # between the starts of two copies

Row = tuple[Any, ...]


def copy(database: Path, target: Path) -> None:
    """`target` is the database as it is now, also where it is open elsewhere."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with closing(sqlite3.connect(database)) as source, closing(sqlite3.connect(target)) as into:
        source.backup(into)


def grow(database: Path, n_runs: int) -> None:
    """The database has `n_runs` runs, or a few more, since whole experiments are copied."""
    with closing(sqlite3.connect(database)) as connected, connected:
        held = _count(connected)
        n_copies = max(0, -(-(n_runs - held) // held))
        # The number is no hexadecimal one, so that no copy has a name that was there.
        names = re.compile("|".join(re.escape(name) for (name,) in connected.execute(NAMES)))
        for table in TABLES:
            columns = [column for _, column, *_ in connected.execute(f"PRAGMA table_info({table})")]
            rows = [_open(row, names) for row in connected.execute(f"SELECT * FROM {table}")]  # noqa: S608 - ours
            marks = ", ".join("?" * len(columns))
            insert = f"INSERT INTO {table} VALUES ({marks})"  # noqa: S608 - our own table names
            connected.executemany(insert, _copies(columns, rows, n_copies))


def runs(database: Path) -> int:
    """How many runs the database has."""
    with closing(sqlite3.connect(database)) as connected:
        return _count(connected)


def rows(database: Path) -> Counter[tuple[Any, ...]]:
    """Every row of every table, with the table's name."""
    with closing(sqlite3.connect(database)) as connected:
        asked = "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'"
        tables = [name for (name,) in connected.execute(asked)]
        select = {table: f'SELECT * FROM "{table}"' for table in tables}  # noqa: S608 - our own names
        return Counter((table, *row) for table in tables for row in connected.execute(select[table]))


def changed(before: Counter[tuple[Any, ...]], after: Counter[tuple[Any, ...]]) -> int:
    """How many rows are only in one of them: a row with another value counts twice."""
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
        return (
            cell * (1 + number * 7919 % n_copies) / (n_copies + 1)
        )  # 7919 is prime: no two alike, in no order
    return cell
