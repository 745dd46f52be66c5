"""Where MLflow's runs are, and how they are found."""

import logging
import os
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import mlflow
import requests
from filelock import FileLock
from mlflow import MlflowClient
from mlflow.entities import Run, RunTag
from mlflow.exceptions import MlflowException
from sqlalchemy.exc import SQLAlchemyError

from retrace import files
from retrace.errors import RetraceError
from retrace.redaction import redacted
from retrace.tracking.place import ANSWER_S, SQLITE, address, is_served

LOCK_TIMEOUT_S = 120  # four stages that make the store together take a tenth of it
SETTINGS = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",  # whoever uploads tries again itself
    "MLFLOW_HTTP_REQUEST_TIMEOUT": str(ANSWER_S),
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}
REFUSED = {  # what to do where a server refuses, by MLflow's word for it
    "UNAUTHENTICATED": "set the MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD that its admin has given you",
    "PERMISSION_DENIED": "ask its admin, or the experiment's owner, for EDIT on the MLflow experiment",
}

# MLflow looks for a tag by its name alone, which is every run's; and statistics from when the store was small are worse
# than none. Dropping the old ones changes the schema, by which open connections, `mlflow ui`'s, learn of the new ones.
TIDY = """
CREATE INDEX IF NOT EXISTS retrace_tags ON tags (key, value);
BEGIN;
DROP TABLE IF EXISTS sqlite_stat1;
PRAGMA analysis_limit = 1000;
ANALYZE;
COMMIT;
PRAGMA wal_checkpoint (TRUNCATE);
"""


def is_missing(place: str) -> bool:
    """Whether it is a file that is not there, which `client` would make."""
    return place.startswith(SQLITE) and not Path(place.removeprefix(SQLITE)).exists()


def lock() -> FileLock:
    """Held while something is looked for and made if it is not there, by one process of the machine at a time."""
    file = (files.root() / ".retrace" / "mlflow.lock").resolve()  # a link, in the tree of a sweep's trial
    return FileLock(file, timeout=LOCK_TIMEOUT_S)


def client() -> MlflowClient:
    """A client of the store, which is made if it is a missing file. Raises ConnectionError where a server is away."""
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    os.environ["MLFLOW_ALLOW_PICKLE_DESERIALIZATION"] = "false"  # whatever the shell says: nothing here is a pickle
    logging.getLogger("mlflow").setLevel(logging.WARNING)
    place = address()
    if is_served(place):
        _reach(place)
    elif place.startswith(SQLITE):
        _make(Path(place.removeprefix(SQLITE)))
    return mlflow.MlflowClient(place)


class AwayError(RetraceError):
    """MLflow does not answer."""


@contextmanager
def known() -> Iterator[None]:
    """What of MLflow takes no client looks in the store as well."""
    usual = os.environ.get("MLFLOW_TRACKING_URI")
    os.environ["MLFLOW_TRACKING_URI"] = address()
    try:
        yield
    finally:
        del os.environ["MLFLOW_TRACKING_URI"]
        os.environ |= {"MLFLOW_TRACKING_URI": usual} if usual is not None else {}


@contextmanager
def answering() -> Iterator[None]:
    """What MLflow or its server fails with is an AwayError, in one line."""
    try:
        yield
    except BrokenPipeError:  # of who reads what is printed here
        raise
    except (MlflowException, SQLAlchemyError, requests.RequestException, ConnectionError) as error:
        said = " ".join(str(error).partition("[SQL:")[0].split())[:300]
        mend = "see whether its file can be written to" if address().startswith(SQLITE) else "start it"
        todo = REFUSED.get(getattr(error, "error_code", ""), f"{mend}, or name another in MLFLOW_TRACKING_URI")
        raise AwayError(redacted(f"MLflow: {said}; {todo}, and type this again")) from None


@contextmanager
def patient(seconds: float) -> Iterator[None]:
    """A server has so long to answer, at least as long as else: what it stores elsewhere, it first has to pass on."""
    name = "MLFLOW_HTTP_REQUEST_TIMEOUT"
    usual = os.environ[name]
    os.environ[name] = str(max(int(usual), int(seconds)))
    try:
        yield
    finally:
        os.environ[name] = usual


def _reach(place: str) -> None:
    try:
        requests.get(f"{place.rstrip('/')}/health", timeout=ANSWER_S)
    except requests.RequestException as error:
        raise ConnectionError(f"{place} does not answer ({type(error).__name__})") from None


def _make(database: Path) -> None:
    if database.exists():
        return
    database.parent.mkdir(parents=True, exist_ok=True)
    with lock():
        if not database.exists():
            # Two processes that migrate one file break it, so it is made aside and appears whole.
            unfinished = database.with_name(f".{database.name}.{os.getpid()}")
            mlflow.MlflowClient(f"{SQLITE}{unfinished}").search_experiments()
            with closing(sqlite3.connect(unfinished)) as connected:
                connected.execute("PRAGMA journal_mode = WAL")  # readers and a writer do not wait for one another
            unfinished.replace(database)


def tidy(place: str) -> None:
    """A database that grows stays quick to ask; where it is busy just now, the next time is soon enough."""
    if place.startswith(SQLITE):
        with (
            suppress(sqlite3.OperationalError),
            closing(sqlite3.connect(place.removeprefix(SQLITE), timeout=1)) as made,
        ):
            made.executescript(TIDY)


def experiment_of(client: MlflowClient, name: str) -> str:
    """The id of the MLflow experiment `name`, made if it is not there; call it under `lock`."""
    if found := client.get_experiment_by_name(name):
        if found.lifecycle_stage == "deleted":
            client.restore_experiment(found.experiment_id)
        return found.experiment_id
    # Fixed for ever, hence absolute: a queued experiment's own folder is deleted. A server has a place of its own.
    place = None if is_served(client.tracking_uri) else (files.root() / "mlruns" / name).as_uri()
    return client.create_experiment(name, place, {"mlflow.experimentKind": "custom_model_development"})


def experiments(client: MlflowClient) -> list[str]:
    """The ids of all experiments."""
    return [experiment.experiment_id for experiment in client.search_experiments()]


def first(client: MlflowClient, experiments: list[str], tags: Mapping[str, str], also: str = "") -> Run | None:
    """The oldest run with all these tags, and of which `also` holds, a condition of MLflow's."""
    asked = " and ".join([f"tags.`{tag}` = '{value}'" for tag, value in tags.items()] + ([also] if also else []))
    found = client.search_runs(experiments, asked, max_results=1, order_by=["start_time ASC"])
    return found[0] if found else None


def every(client: MlflowClient, experiments: list[str], asked: str) -> Iterator[Run]:
    """All runs of which `asked` holds, a page at a time."""
    token: str | None = None
    while True:
        page = client.search_runs(experiments, asked, max_results=1000, page_token=token) if experiments else []
        yield from page
        token = getattr(page, "token", None)
        if not token:
            return


def tagged(values: Mapping[str, str]) -> list[Any]:
    """As MLflow takes tags."""
    return [RunTag(name, value) for name, value in values.items()]
