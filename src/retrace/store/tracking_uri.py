"""Return the address of the MLflow store without importing MLflow, which takes a second or two."""

import os
import re
from functools import cache
from pathlib import Path
from urllib.parse import quote, unquote

from retrace.system import files
from retrace.system.redaction import redacted
from retrace.system.text import command

SQLITE = "sqlite:///"
WITH_DRIVER = "sqlite+pysqlite:///"  # the same; MLflow makes no folder of what follows it
FILE_URI = "uri=true"  # option of an address whose path is a URI of SQLite's
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
    return absolute(uri)


def absolute(uri: str) -> str:
    """Return the address of a store; that of a SQLite file with its path in the main repository."""
    file = sqlite_file(uri)
    if file is None:
        return uri
    options = uri.partition("?")[2]
    own = sqlite_uri(files.root() / file)
    if options and FILE_URI not in options:
        own += f"{'&' if '?' in own else '?'}{options}"
    return own


def sqlite_uri(file: Path) -> str:
    """Return the address of a SQLite file, whatever characters its path has.

    SQLAlchemy takes a path up to `?`, and since 2.1 it decodes `%2F`; no other character matters.
    """
    path = str(file)
    if {"%", "?"}.isdisjoint(path):
        return f"{SQLITE}{path}"
    if _is_decoded():
        return f"{WITH_DRIVER}{path.replace('%', '%25').replace('?', '%3F')}"
    return f"{WITH_DRIVER}file:{quote(path)}?{FILE_URI}"  # SQLite itself decodes it


def sqlite_file(uri: str) -> Path | None:
    """Return the file at the address of a SQLite database; None if it is another address."""
    if not uri.startswith((SQLITE, WITH_DRIVER)):
        return None
    path, _, options = uri.partition(":///")[2].partition("?")
    if "%" in path and _is_decoded():
        path = unquote(path)
    if FILE_URI in options.split("&"):
        path = unquote(path.removeprefix("file:").removeprefix("//"))
    return Path(path)


@cache
def _is_decoded() -> bool:
    """Return whether the installed SQLAlchemy decodes `%2F` in the path of a database."""
    from importlib.metadata import version  # takes time to import

    major, minor = version("sqlalchemy").split(".")[:2]
    return (int(major), int(minor)) >= (2, 1)


def for_shell() -> str:
    """Return the assignment that a command of `mlflow` needs before it; empty if it needs none.

    An address with credentials is not shown: the user's shell has it in its environment.
    """
    uri = os.environ.get("MLFLOW_TRACKING_URI")
    if not uri and address().startswith(WITH_DRIVER):
        uri = address()  # from its default, MLflow makes a folder beside the repository
    return f"MLFLOW_TRACKING_URI={command(uri)} " if uri and redacted(uri) == uri else ""


def is_served(uri: str) -> bool:
    """Return whether the store is a server."""
    return uri.lower().startswith(("http://", "https://"))


def is_database(uri: str) -> bool:
    """Return whether the store is a database, such as `postgresql+psycopg2://host/mlflow`."""
    return re.split(r"[+:]", uri)[0] in DATABASES
