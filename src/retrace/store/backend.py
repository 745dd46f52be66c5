"""Use the MLflow store: a client, a lock, timeouts and queries."""

import logging
import os
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import mlflow
import requests
from filelock import FileLock
from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
from sqlalchemy.exc import SQLAlchemyError

from retrace.errors import RetraceError
from retrace.pipeline import code_text
from retrace.pipeline.workspace import Workspace
from retrace.store import filters, names
from retrace.store.tracking_uri import (
    ANSWER_S,
    address,
    is_served,
    sqlite_file,
    sqlite_uri,
)
from retrace.system import files
from retrace.system.redaction import redacted

LOCK_TIMEOUT_S = 120  # four stages that create the store together take a tenth of it
SETTINGS = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",  # the uploader retries itself
    "MLFLOW_HTTP_REQUEST_TIMEOUT": str(ANSWER_S),
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}
REFUSED = {  # what to do if a server refuses, by MLflow's error code
    "UNAUTHENTICATED": (
        "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, which its admin gives you"
    ),
    "PERMISSION_DENIED": (
        "ask its admin or the experiment's owner for EDIT permission on the MLflow experiment"
    ),
}

# MLflow has no index for the value of a tag, only for its name, which every run has. Statistics
# from when the store was small are worse than none; dropping them changes the schema, so that open
# connections, such as those of `mlflow ui`, read the new ones.
TIDY = """
CREATE INDEX IF NOT EXISTS retrace_tags ON tags (key, value);
BEGIN;
DROP TABLE IF EXISTS sqlite_stat1;
PRAGMA analysis_limit = 1000;
ANALYZE;
COMMIT;
PRAGMA wal_checkpoint (TRUNCATE);
"""


def is_missing(uri: str) -> bool:
    """Return whether the store is a database file that does not exist; `client` would create it."""
    file = sqlite_file(uri)
    return file is not None and not file.exists()


def lock() -> FileLock:
    """Return the lock that serializes find-or-create operations on this machine."""
    file = files.root() / ".retrace" / "mlflow.lock"
    return FileLock(file.resolve(), timeout=LOCK_TIMEOUT_S)  # a trial of a sweep has a link


def client() -> MlflowClient:
    """Return a client of the store, creating a missing database.

    Raises ConnectionError if a server does not answer.
    """
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    os.environ["MLFLOW_ALLOW_PICKLE_DESERIALIZATION"] = "false"  # even if the shell allows it
    logging.getLogger("mlflow").setLevel(logging.WARNING)
    uri = address()
    if is_served(uri):
        _reach(uri)
    elif file := sqlite_file(uri):
        _create(file)
    return mlflow.MlflowClient(uri)


class StoreUnavailableError(RetraceError):
    """MLflow does not answer."""


@contextmanager
def as_default_store() -> Iterator[None]:
    """Make the store the default of MLflow's functions that take no client."""
    usual = os.environ.get("MLFLOW_TRACKING_URI")
    os.environ["MLFLOW_TRACKING_URI"] = address()
    try:
        yield
    finally:
        del os.environ["MLFLOW_TRACKING_URI"]
        os.environ |= {"MLFLOW_TRACKING_URI": usual} if usual is not None else {}


@contextmanager
def mlflow_errors() -> Iterator[None]:
    """Turn errors of MLflow or its server into a StoreUnavailableError with a one-line message."""
    try:
        yield
    except BrokenPipeError:  # of stdout
        raise
    except (MlflowException, SQLAlchemyError, requests.RequestException, ConnectionError) as error:
        reason = " ".join(str(error).partition("[SQL:")[0].split())[:300]
        is_file = sqlite_file(address()) is not None
        fix = "check that its file is readable and writable" if is_file else "start it"
        remedy = REFUSED.get(
            getattr(error, "error_code", ""), f"{fix}, or set MLFLOW_TRACKING_URI to another store"
        )
        raise StoreUnavailableError(
            redacted(f"MLflow: {reason}; {remedy}, then run the command again")
        ) from None


@contextmanager
def request_timeout(seconds: float) -> Iterator[None]:
    """Give a server at least `seconds` to answer.

    It forwards files to its artifact store before it answers.
    """
    name = "MLFLOW_HTTP_REQUEST_TIMEOUT"
    usual = os.environ[name]
    os.environ[name] = str(max(int(usual), int(seconds)))
    try:
        yield
    finally:
        os.environ[name] = usual


def warm_up() -> None:
    """Query an existing database once; the first query takes a second, mostly for imports."""
    uri = address()
    file = sqlite_file(uri)
    if file and file.exists():
        client().search_experiments(max_results=1)


def _reach(uri: str) -> None:
    """Raise ConnectionError if the server does not answer."""
    try:
        requests.get(f"{uri.rstrip('/')}/health", timeout=ANSWER_S)
    except requests.RequestException as error:
        raise ConnectionError(f"{uri} does not answer ({type(error).__name__})") from None


def _create(database: Path) -> None:
    if database.exists():
        return
    database.parent.mkdir(parents=True, exist_ok=True)
    with lock():
        if not database.exists():
            # Two processes that migrate the same file corrupt it: create another, then rename it.
            unfinished = database.with_name(f".{database.name}.{os.getpid()}")
            SqlAlchemyStore(sqlite_uri(unfinished), artifacts().as_uri())
            with closing(sqlite3.connect(unfinished)) as connection:
                connection.execute("PRAGMA journal_mode = WAL")  # readers do not block a writer
            unfinished.replace(database)


def tidy(uri: str) -> None:
    """Keep queries of a growing database fast. If it is busy, leave that to the next call."""
    file = sqlite_file(uri)
    if file:
        with (
            suppress(sqlite3.OperationalError),
            closing(sqlite3.connect(file, timeout=1)) as connection,
        ):
            connection.executescript(TIDY)


def experiment_of(client: MlflowClient, name: str) -> str:
    """Find or create the MLflow experiment `name` and return its id. Call it under `lock`."""
    name = names.storable(name, names.MAX_EXPERIMENT)
    experiment = client.get_experiment_by_name(name)
    if experiment:
        if experiment.lifecycle_stage == "deleted":
            client.restore_experiment(experiment.experiment_id)
        return experiment.experiment_id
    # MLflow never changes the location. A server chooses its own.
    folder = artifacts() / names.encode(name)
    location = None if is_served(client.tracking_uri) else folder.as_uri()
    return client.create_experiment(
        name, location, {"mlflow.experimentKind": "custom_model_development"}
    )


def artifacts() -> Path:
    """Return the folder for the artifacts of new MLflow experiments.

    It is absolute, because a queued experiment's folder is deleted. If code or dvc.yaml names
    `mlruns`, that is a store of the stages' own, which takes each folder in it for an experiment.
    """
    root = files.root()
    usual = root / "mlruns"
    is_own = any(usual.glob("*/meta.yaml"))
    with suppress(RetraceError):  # dvc.yaml is not valid
        workspace = Workspace(root)
        stages = workspace.pipeline.stages.values()
        texts = (text for stage in stages for text in code_text.texts(workspace, stage))
        is_own |= workspace.pipeline.maker("mlruns") is not None
        is_own = is_own or any("mlruns" in text for text in texts)
    return root / ".retrace" / "mlruns" if is_own else usual


def experiments(client: MlflowClient) -> list[str]:
    """Return the ids of all experiments."""
    return [experiment.experiment_id for experiment in client.search_experiments()]


def first(
    client: MlflowClient, experiments: list[str], tags: Mapping[str, str], also: str = ""
) -> Run | None:
    """Return the oldest run with all these tags that matches `also`, an MLflow filter."""
    conditions = [filters.equals(filters.tag(name), value) for name, value in tags.items()]
    query = " and ".join(conditions + ([also] if also else []))
    is_exact = all(map(filters.is_exact, tags.values()))
    runs = search_runs(
        client, experiments, query, order=["start_time ASC"], page_size=1 if is_exact else 1000
    )
    wanted = names.tags(tags).items()
    return next((run for run in runs if wanted <= run.data.tags.items()), None)


def search_runs(
    client: MlflowClient,
    experiments: list[str],
    query: str,
    *,
    order: list[str] | None = None,
    page_size: int = 1000,
) -> Iterator[Run]:
    """Yield all runs that match the query, page by page."""
    token: str | None = None
    while experiments:
        page = client.search_runs(
            experiments, query, max_results=page_size, order_by=order, page_token=token
        )
        yield from page
        token = getattr(page, "token", None)
        if not token:
            return
