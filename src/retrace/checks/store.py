"""MLflow's store: whether it answers, is whole and of this MLflow's schema, and what it holds that is not so any more.

A database is read as a file, read-only and without MLflow, whose import takes seconds and which would change it.
"""

import re
import shlex
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import cache as once
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

from retrace import files, processes
from retrace.checks.findings import Check, Finding, ok, problem, some, warning
from retrace.redaction import redacted
from retrace.tracking import place

INTEGRITY_S = 1.0  # of looking for damage, page by page
BIG_WAL = 64e6  # bytes of changes that wait beside a database
SYNC = "retrace sync"
RUNNING = """
SELECT coalesce(name, run_uuid), value FROM runs JOIN tags USING (run_uuid)
WHERE status = 'RUNNING' AND lifecycle_stage = 'active' AND key = 'retrace.process'
"""
LOCATED = """
SELECT name, artifact_location FROM experiments AS e WHERE lifecycle_stage = 'active'
AND EXISTS (SELECT 1 FROM runs WHERE runs.experiment_id = e.experiment_id AND runs.lifecycle_stage = 'active')
"""


def database() -> Path | None:
    """The file of the store, if it is one."""
    address = place.address()
    return Path(address.removeprefix(place.SQLITE)) if address.startswith(place.SQLITE) else None


@contextmanager
def opened(file: Path) -> Iterator[sqlite3.Connection]:
    """The database, of which nothing is written, not even the files beside it that a reader else makes."""
    options = "mode=ro" if Path(f"{file}-wal").exists() else "mode=ro&immutable=1"
    with closing(sqlite3.connect(f"file:{quote(str(file))}?{options}", uri=True, timeout=2)) as connected:
        yield connected


def answers() -> Iterator[Finding]:
    """The store is there, and can be read."""
    file = database()
    if file is None:
        yield from _server(place.address())
    elif not file.exists():
        yield ok(f"no {file.name} yet: the first run makes it")
    elif file.stat().st_size == 0:
        yield problem(f"{file.name} is empty, which processes that start together would break", f"rm {_q(file)}")
    elif why := _damage(file):
        yield problem(f"{file.name} is damaged ({why}); runs come back from their journals, without files", _anew(file))
    else:
        yield ok(f"{file.name}, {file.stat().st_size / 1e6:,.1f} MB")


def _server(address: str) -> Iterator[Finding]:
    shown = redacted(address)
    if not place.is_served(address):
        yield ok(f"MLFLOW_TRACKING_URI names {shown}, which is not looked into")
        return
    import requests

    try:
        code = requests.get(f"{address.rstrip('/')}/health", timeout=place.ANSWER_S).status_code
    except requests.RequestException as error:
        said = f"{shown}, in MLFLOW_TRACKING_URI, does not answer ({type(error).__name__})"
        yield problem(f"{said}; start it, or use mlflow.db here", "unset MLFLOW_TRACKING_URI")
        return
    if code != 200:
        yield problem(f"{shown}, in MLFLOW_TRACKING_URI, answers with {code}", "unset MLFLOW_TRACKING_URI")
    else:
        yield from _of_server(shown)


def _of_server(shown: str) -> Iterator[Finding]:
    from retrace.errors import RetraceError
    from retrace.tracking import runs, store

    try:
        with store.answering():
            gone = runs.abandoned(store.client())
    except RetraceError as error:
        yield problem(str(error))
        return
    if gone:
        yield _stale([str(run.info.run_name) for run in gone])
    else:
        yield ok(f"{shown} answers")


def _damage(file: Path) -> str | None:
    """What SQLite finds wrong with the file in the time that there is."""
    until = time.monotonic() + INTEGRITY_S
    try:
        with opened(file) as connected:
            connected.execute("SELECT count(*) FROM sqlite_master").fetchone()
            connected.set_progress_handler(lambda: time.monotonic() > until, 10_000)
            (said,) = connected.execute("PRAGMA quick_check(1)").fetchone()
    except sqlite3.DatabaseError as error:
        return None if "interrupted" in str(error) or "locked" in str(error) else str(error)
    return None if said == "ok" else str(said).splitlines()[0]


def _anew(file: Path) -> str:
    """The damaged files are put aside, and all journals are uploaded into a new database."""
    aside = shlex.quote(f".retrace/{file.name}-{time.strftime('%Y%m%dT%H%M%S')}")
    names = shlex.join(str(each) for each in (file, Path(f"{file}-wal"), Path(f"{file}-shm")) if each.exists())
    done = ".retrace/journal/uploaded"
    back = f" && mv {done}/*.jsonl .retrace/journal/" if any(Path(done).glob("*.jsonl")) else ""
    return f"mkdir -p {aside} && mv {names} {aside}{back} && {SYNC}"


def schema() -> Iterator[Finding]:
    """The database has the schema that the installed MLflow works with."""
    file = database()
    tables = _rows("SELECT 1 FROM sqlite_master WHERE name = 'alembic_version'")
    if file is None or tables is None:
        return
    row = next(iter(_rows("SELECT version_num FROM alembic_version") or []), None)
    known, head = _revisions()
    version = metadata.version("mlflow")
    if row is None:
        yield problem(f"{file.name} is no database of MLflow's", _anew(file))
    elif row[0] == head:
        yield ok(f"schema {head}, as MLflow {version} has it")
    elif row[0] in known:
        said = f"{file.name} has the schema {row[0]} of an older MLflow; {version} works with {head}"
        yield problem(said, f"mlflow db upgrade {shlex.quote(place.address())}")
    else:
        said = f"{file.name} has the schema {row[0]}, which MLflow {version} does not know: a newer one made it"
        yield problem(f"{said}; install that, or put the database aside", _anew(file))


@once
def _revisions() -> tuple[set[str], str]:
    """The schemas that the installed MLflow knows, and the newest of them, read from its files."""
    found = find_spec("mlflow")
    if found is None or found.origin is None:
        raise ModuleNotFoundError("mlflow is not installed")
    texts = [
        file.read_text(encoding="utf-8") for file in Path(found.origin).parent.glob("store/db_migrations/versions/*.py")
    ]
    known = {name for text in texts for name in re.findall(r"^revision\b.*?= *['\"](\w+)", text, re.MULTILINE)}
    below = {
        name
        for text in texts
        for said in re.findall(r"^down_revision\b.*?= *(.*)", text, re.MULTILINE)
        for name in re.findall(r"\w{8,}", said)
    }
    if not known:
        raise ImportError(f"{found.origin} has no schemas")
    (head,) = known - below
    return known, head


def stale() -> Iterator[Finding]:
    """No run seems to go on whose process is gone."""
    running = _rows(RUNNING) or []
    if gone := [name for name, process in running if not processes.alive(processes.read(process))]:
        yield _stale(gone)
    elif running:
        yield ok(f"{len(running)} runs go on")


def _stale(names: list[str]) -> Finding:
    return problem(f"{len(names)} runs are RUNNING whose process is gone: {some(names)}", SYNC)


def artifacts() -> Iterator[Finding]:
    """The files of runs are where the database says, which is fixed for ever when an MLflow experiment is made."""
    located = _rows(LOCATED) or []
    here = files.root() / "mlruns"
    missing = {name: folder for name, said in located if (folder := _folder(said)) and not folder.exists()}
    for name, folder in missing.items():
        moved = folder.name == name and (here / name).is_dir()
        if moved and not folder.parent.exists():
            said = f"the files of experiment {name} are looked for in {folder}: the repository was there before"
            repair = f"mkdir -p {_q(folder.parent.parent)} && ln -s {_q(here)} {_q(folder.parent)}"
            yield problem(said, repair)
        else:
            said = f"the files of experiment {name}, in {folder}, are gone; new ones will be put there"
            yield warning(said, f"mkdir -p {_q(folder)}")


def _folder(location: str) -> Path | None:
    """The folder that an address names; None of a server's, and of a bucket."""
    parts = urlsplit(location)
    return Path(unquote(parts.path)) if parts.scheme in ("", "file") else None


def waiting() -> Iterator[Finding]:
    """What was written waits in no large file beside the database, which makes it slow to ask."""
    file = database()
    wal = Path(f"{file}-wal")
    if file and wal.exists() and wal.stat().st_size > BIG_WAL:
        yield warning(f"{wal.stat().st_size / 1e6:,.0f} MB of changes wait beside {file.name}; end `retrace ui`", SYNC)


def _rows(question: str) -> list[tuple[str, ...]] | None:
    """What the database answers; None where there is none, or none that can be asked, as `answers` and `schema` say."""
    file = database()
    if file is None or not file.exists() or not file.stat().st_size:
        return None
    try:
        with opened(file) as connected:
            return connected.execute(question).fetchall()
    except sqlite3.DatabaseError:
        return None


def _q(path: Path) -> str:
    return shlex.quote(str(path))


CHECKS: dict[str, Check] = {
    "MLflow": answers,
    "schema": schema,
    "runs": stale,
    "artifacts": artifacts,
    "changes": waiting,
}
