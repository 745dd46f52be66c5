"""Return the address of the MLflow store without importing MLflow, which takes a second or two."""

import os

from retrace.system import files

ANSWER_S = 4  # for a server
SQLITE = "sqlite:///"


def address() -> str:
    """Return MLFLOW_TRACKING_URI, or a database in the main repository.

    The path of a database is absolute, because a queued experiment runs in a separate folder.
    """
    uri = os.environ.get("MLFLOW_TRACKING_URI") or f"{SQLITE}mlflow.db"
    if uri.startswith(SQLITE):
        return f"{SQLITE}{files.root() / uri.removeprefix(SQLITE)}"
    return uri


def is_served(uri: str) -> bool:
    """Return whether the store is a server."""
    return uri.startswith(("http://", "https://"))
