"""Where MLflow's runs are, found without MLflow, whose import takes a second or two."""

import os

from retrace import files

ANSWER_S = 4  # in which a server must answer
SQLITE = "sqlite:///"


def address() -> str:
    """MLFLOW_TRACKING_URI, or a database in the main repository.

    A file is absolute, so that a queued experiment, which runs in a folder of its own, finds it.
    """
    place = os.environ.get("MLFLOW_TRACKING_URI") or f"{SQLITE}mlflow.db"
    if place.startswith(SQLITE):
        return f"{SQLITE}{files.root() / place.removeprefix(SQLITE)}"
    return place


def is_served(place: str) -> bool:
    return place.startswith(("http://", "https://"))
