"""Return the address of the MLflow store without importing MLflow, which takes a second or two."""

import os
import re
import shlex

from retrace.system import files
from retrace.system.redaction import redacted

SQLITE = "sqlite:///"
DATABASES = ("sqlite", "postgresql", "mysql", "mssql")
LOOPBACK = re.compile(r"http://127\.0\.0\.1:\d+/retrace/[0-9a-f]+/?")
BEHIND = "RETRACE_STORE"  # variable of a wrapped command: the store of its server on loopback


def address() -> str:
    """Return MLFLOW_TRACKING_URI, or a database in the main repository.

    The path of a database is absolute, because a queued experiment runs in a separate folder. In a
    wrapped command it is the store of `tracking.loopback`'s server, not the server.
    """
    uri = os.environ.get("MLFLOW_TRACKING_URI", "").strip() or f"{SQLITE}mlflow.db"
    if LOOPBACK.fullmatch(uri):
        uri = os.environ.get(BEHIND, uri)
    if uri.startswith(SQLITE):
        return f"{SQLITE}{files.root() / uri.removeprefix(SQLITE)}"
    return uri


def for_shell() -> str:
    """Return the assignment that a command of `mlflow` needs before it; empty if it needs none.

    An address with credentials is not shown: the user's shell has it in its environment.
    """
    uri = os.environ.get("MLFLOW_TRACKING_URI")
    return f"MLFLOW_TRACKING_URI={shlex.quote(uri)} " if uri and redacted(uri) == uri else ""


def is_served(uri: str) -> bool:
    """Return whether the store is a server."""
    return uri.lower().startswith(("http://", "https://"))


def is_database(uri: str) -> bool:
    """Return whether the store is a database, such as `postgresql+psycopg2://host/mlflow`."""
    return re.split(r"[+:]", uri)[0] in DATABASES
