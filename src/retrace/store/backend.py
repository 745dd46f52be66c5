"""Use the MLflow store: a client, a lock, timeouts and queries."""

import logging
import os
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from functools import cache
from pathlib import Path

import mlflow
import requests
import urllib3
from alembic.util import CommandError
from filelock import FileLock
from mlflow import MlflowClient
from mlflow.entities import Experiment, Run, ViewType
from mlflow.exceptions import MlflowException
from mlflow.store.db.utils import create_sqlalchemy_engine
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
from sqlalchemy.exc import SQLAlchemyError
from urllib3.exceptions import InsecureRequestWarning

from retrace.errors import CLOSED, FULL, RetraceError
from retrace.pipeline import code_text
from retrace.pipeline.workspace import Workspace
from retrace.store import filters, names, unavailable
from retrace.store.tracking_uri import address, is_database, is_served, sqlite_file, sqlite_uri
from retrace.store.unavailable import StoreUnavailableError
from retrace.system import files, mlflow_environment

LOCK_TIMEOUT_S = 120  # four stages that create the store together take a tenth of it
ARTIFACTS = "RETRACE_ARTIFACTS"  # variable of a task: the folder of `artifacts`
NAMED = "retrace.experiment"  # tag of an MLflow experiment: its name in our settings
UNAVAILABLE = (  # what MLflow and its libraries raise if a store does not answer
    *(MlflowException, SQLAlchemyError, CommandError, requests.RequestException),
    *(OSError, ImportError, ValueError),
)
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

    Raises StoreUnavailableError if the store does not answer; RetraceError if the timeout is none.
    """
    mlflow_environment.enter()
    unavailable.demand_timeout()
    logging.getLogger("mlflow").setLevel(logging.WARNING)
    urllib3.disable_warnings(InsecureRequestWarning)  # of MLFLOW_TRACKING_INSECURE_TLS
    uri = address()
    try:
        if file := sqlite_file(uri):
            _create(file)
        if is_database(uri):
            _connect(uri)
        opened = mlflow.MlflowClient(uri)
        opened.search_experiments(max_results=1)
    except UNAVAILABLE as error:
        if isinstance(error, OSError) and error.errno in (*FULL, *CLOSED):
            raise
        raise unavailable.explained(error) from None
    return opened


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
    except StoreUnavailableError:
        raise
    except (
        *(MlflowException, SQLAlchemyError, requests.RequestException, ConnectionError),
        ImportError,  # of a database's driver
    ) as error:
        raise unavailable.explained(error) from None


@contextmanager
def request_timeout(seconds: float) -> Iterator[None]:
    """Give a server at least `seconds` to answer.

    It forwards files to its artifact store before it answers.
    """
    name = mlflow_environment.TIMEOUT
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


@cache
def _connect(uri: str) -> None:
    """Connect to a database once: MLflow would try for two minutes."""
    engine = create_sqlalchemy_engine(uri)
    try:
        engine.connect().close()
    finally:
        engine.dispose()


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
    experiment = find_experiment(client, name)
    if experiment:
        if experiment.lifecycle_stage == "deleted":
            client.restore_experiment(experiment.experiment_id)
        if NAMED not in experiment.tags:
            client.set_experiment_tag(experiment.experiment_id, NAMED, name)
        return experiment.experiment_id
    # MLflow never changes the location. A server chooses its own.
    folder = artifacts() / names.encode(name)
    location = None if is_served(client.tracking_uri) else folder.as_uri()
    kind = {"mlflow.experimentKind": "custom_model_development"}
    return client.create_experiment(name, location, kind | {NAMED: name})


def find_experiment(client: MlflowClient, name: str) -> Experiment | None:
    """Return the MLflow experiment `name`, also if a user has renamed or deleted it."""
    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        query = filters.equals(filters.tag(NAMED), name)
        renamed = client.search_experiments(view_type=ViewType.ALL, filter_string=query)
        experiment = next((each for each in renamed if each.tags[NAMED] == name), None)
    return experiment


def artifacts() -> Path:
    """Return the folder for the artifacts of new MLflow experiments.

    It is absolute, because a queued experiment's folder is deleted; so is a task's clone, whose
    variable names the folder. If code or dvc.yaml names `mlruns`, that is a store of the stages'
    own, which takes each folder in it for an experiment.
    """
    if given := os.environ.get(ARTIFACTS):
        return Path(given)
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
    client: MlflowClient,
    experiments: list[str],
    tags: Mapping[str, str],
    also: str = "",
    view: int = ViewType.ACTIVE_ONLY,
) -> Run | None:
    """Return the oldest run with all these tags that matches `also`, an MLflow filter."""
    conditions = [filters.equals(filters.tag(name), value) for name, value in tags.items()]
    query = " and ".join(conditions + ([also] if also else []))
    is_exact = all(map(filters.is_exact, tags.values()))
    size = 1 if is_exact else 1000
    order = ["start_time ASC"]
    runs = search_runs(client, experiments, query, order=order, page_size=size, view=view)
    wanted = names.tags(tags).items()
    return next((run for run in runs if wanted <= run.data.tags.items()), None)


def search_runs(
    client: MlflowClient,
    experiments: list[str],
    query: str,
    *,
    order: list[str] | None = None,
    page_size: int = 1000,
    view: int = ViewType.ACTIVE_ONLY,
) -> Iterator[Run]:
    """Yield all runs that match the query, page by page."""
    token: str | None = None
    while experiments:
        page = client.search_runs(
            experiments, query, view, page_size, order_by=order, page_token=token
        )
        yield from page
        token = getattr(page, "token", None)
        if not token:
            return
