"""MLflow's store: does it answer, is it intact, does its schema fit, does it have stale runs?

A database is read as a file, read-only and without MLflow, whose import takes seconds and which
would change it.
"""

import os
import re
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import cache as once
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

from retrace import event_log
from retrace.doctor.findings import Check, Finding, ok, problem, some, warning
from retrace.store import tracking_uri
from retrace.system import files, processes
from retrace.system.redaction import redacted
from retrace.system.text import command, count

INTEGRITY_S = 1.0  # for finding damage, page by page
BIG_WAL = 64e6  # bytes of a write-ahead log
SYNC = "retrace sync"
RUNNING = """
SELECT coalesce(name, run_uuid), value FROM runs JOIN tags USING (run_uuid)
WHERE status = 'RUNNING' AND lifecycle_stage = 'active'
AND key IN ('mlflow.retrace.process', 'retrace.process')
"""
LOCATED = """
SELECT name, artifact_location FROM experiments AS e WHERE lifecycle_stage = 'active' AND EXISTS (
    SELECT 1 FROM runs
    WHERE runs.experiment_id = e.experiment_id AND runs.lifecycle_stage = 'active'
)
"""


def database() -> Path | None:
    """Return the file of the store, if it is one."""
    return tracking_uri.sqlite_file(tracking_uri.address())


@contextmanager
def opened(file: Path) -> Iterator[sqlite3.Connection]:
    """Open the database without writing, not even the files beside it that a reader creates."""
    options = "mode=ro" if Path(f"{file}-wal").exists() else "mode=ro&immutable=1"
    address = f"file:{quote(str(file))}?{options}"
    with closing(sqlite3.connect(address, uri=True, timeout=2)) as connection:
        yield connection


def answers() -> Iterator[Finding]:
    """Check that the store exists and is readable."""
    file = database()
    if file is None:
        yield from _abandoned(redacted(tracking_uri.address()))
    elif not file.exists():
        yield ok(f"no {file.name} yet: the first run creates it")
    elif not file.is_file():
        state = f"{file}, in MLFLOW_TRACKING_URI, is a folder, not a database"
        yield problem(state, "unset MLFLOW_TRACKING_URI")
    elif not os.access(file, os.R_OK | os.W_OK):
        yield problem(f"{file} is not readable and writable", command("chmod", "u+rw", file))
    elif file.stat().st_size == 0:
        state = f"{file.name} is empty; processes that start at the same time would corrupt it"
        yield problem(state, command("rm", file))
    else:
        damage = _damage(file)
        if damage:
            state = f"{file.name} is damaged ({damage})"
            rest = "the runs can be restored from the event logs, but not their artifacts"
            yield problem(f"{state}; {rest}", _restore(file))
        else:
            yield ok(f"{file.name}, {file.stat().st_size / 1e6:,.1f} MB")


def _abandoned(shown: str) -> Iterator[Finding]:
    from retrace.errors import RetraceError
    from retrace.store import backend, runs

    try:
        with backend.mlflow_errors():
            abandoned = runs.abandoned(backend.client())
    except RetraceError as error:
        yield problem(f"MLFLOW_TRACKING_URI: {error}", "unset MLFLOW_TRACKING_URI")
        return
    if abandoned:
        yield _stale([str(run.info.run_name) for run in abandoned])
    else:
        yield ok(f"{shown} answers")


def _damage(file: Path) -> str | None:
    """Return the first damage that SQLite finds within `INTEGRITY_S`."""
    until = time.monotonic() + INTEGRITY_S
    try:
        with opened(file) as connection:
            connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
            connection.set_progress_handler(lambda: time.monotonic() > until, 10_000)
            (result,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    except sqlite3.DatabaseError as error:
        return None if "interrupted" in str(error) or "locked" in str(error) else str(error)
    return None if result == "ok" else str(result).splitlines()[0]


def _restore(file: Path) -> str:
    """Return commands that move the damaged files aside and upload all event logs again."""
    aside = Path(".retrace", f"{file.name}-{time.strftime('%Y%m%dT%H%M%S')}")
    names = [each for each in (file, Path(f"{file}-wal"), Path(f"{file}-shm")) if each.exists()]
    move = f"{command('mkdir', '-p', aside)} && {command('mv', *names, aside)}"
    done = ".retrace/journal/uploaded"
    back = f" && mv {done}/*.jsonl .retrace/journal/" if any(Path(done).glob("*.jsonl")) else ""
    return f"{move}{back} && {SYNC}"


def schema() -> Iterator[Finding]:
    """Check that the database has the schema of the installed MLflow."""
    file = database()
    tables = _rows("SELECT 1 FROM sqlite_master WHERE name = 'alembic_version'")
    if file is None or tables is None:
        return
    row = next(iter(_rows("SELECT version_num FROM alembic_version") or []), None)
    known, head = _revisions()
    version = metadata.version("mlflow-skinny")
    if row is None:
        yield problem(f"{file.name} is not an MLflow database", _restore(file))
    elif row[0] == head:
        yield ok(f"schema {head}, that of MLflow {version}")
    elif row[0] in known:
        state = f"{file.name} has the schema {row[0]} of an older MLflow; {version} needs {head}"
        yield problem(state, command("mlflow", "db", "upgrade", tracking_uri.address()))
    else:
        state = f"{file.name} has the schema {row[0]} of a newer MLflow than {version}"
        yield problem(f"{state}; install that one, or move the database aside", _restore(file))


@once
def _revisions() -> tuple[set[str], str]:
    """Return all schemas of the installed MLflow, and the newest one, read from its files."""
    spec = find_spec("mlflow")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("mlflow is not installed")
    texts = [
        file.read_text(encoding="utf-8")
        for file in Path(spec.origin).parent.glob("store/db_migrations/versions/*.py")
    ]
    known = {
        name
        for text in texts
        for name in re.findall(r"^revision\b.*?= *['\"](\w+)", text, re.MULTILINE)
    }
    below = {
        name
        for text in texts
        for value in re.findall(r"^down_revision\b.*?= *(.*)", text, re.MULTILINE)
        for name in re.findall(r"\w{8,}", value)
    }
    if not known:
        raise ImportError(f"{spec.origin}: no database schemas found")
    (head,) = known - below
    return known, head


def stale() -> Iterator[Finding]:
    """Check that each run with status RUNNING has a process, or an event log to be uploaded."""
    running = _rows(RUNNING) or []
    pending = event_log.pending_processes()
    gone = [
        name
        for name, process in running
        if process not in pending and not processes.alive(processes.from_line(process))
    ]
    if gone:
        yield _stale(gone)
    elif running:
        yield ok(f"{count(len(running), 'run')} with status RUNNING")


def _stale(names: list[str]) -> Finding:
    state = "has status RUNNING, but its process no longer exists"
    if len(names) > 1:
        state = "have status RUNNING, but their processes no longer exist"
    return problem(f"{count(len(names), 'run')} {state}: {some(names)}", SYNC)


def artifacts() -> Iterator[Finding]:
    """Check that the artifact folders recorded in the database exist.

    MLflow never updates a recorded location.
    """
    located = _rows(LOCATED) or []
    here = files.root() / "mlruns"
    folders = {name: _folder(location) for name, location in located}
    missing = {name: folder for name, folder in folders.items() if folder and not folder.exists()}
    for name, folder in missing.items():
        moved = folder.name == name and (here / name).is_dir()
        if moved and not folder.parent.exists():
            state = f"the database has the artifacts of experiment {name} in {folder}, but the "
            state += "repository moved"
            repair = command("mkdir", "-p", folder.parent.parent)
            yield problem(state, f"{repair} && {command('ln', '-s', here, folder.parent)}")
        else:
            state = f"the artifacts of experiment {name} no longer exist in {folder}"
            yield warning(
                f"{state}; new ones will be written there", command("mkdir", "-p", folder)
            )


def _folder(location: str) -> Path | None:
    """Return the folder at an address; None if it is on a server or in a bucket."""
    parts = urlsplit(location)
    if parts.scheme not in ("", "file"):
        return None
    return Path(unquote(parts.path if parts.scheme else location))  # as MLflow does


def waiting() -> Iterator[Finding]:
    """Check that no large write-ahead log slows down the database."""
    file = database()
    wal = Path(f"{file}-wal")
    if file and wal.exists() and wal.stat().st_size > BIG_WAL:
        size = f"{wal.stat().st_size / 1e6:,.0f} MB"
        state = f"{file.name} has a write-ahead log of {size} that was not merged"
        yield warning(f"{state}; stop `retrace ui`, then run:", SYNC)


def _rows(query: str) -> list[tuple[str, ...]] | None:
    """Return the rows of a query; None if the database is unreadable, which `answers` reports."""
    file = database()
    if file is None or not file.exists() or not file.stat().st_size:
        return None
    try:
        with opened(file) as connection:
            return connection.execute(query).fetchall()
    except sqlite3.DatabaseError:
        return None


CHECKS: dict[str, Check] = {
    "MLflow": answers,
    "schema": schema,
    "runs": stale,
    "artifacts": artifacts,
    "changes": waiting,
}
