"""Find the MLflow stores that a stage's code uses instead of ours, and log their new runs.

Many programs name their store themselves: a folder (`file:./mlruns`), a SQLite file or a server.
The runs in folders and files that the stage created or changed are logged, to be copied into our
store. A server is named in a tag.
"""

import re
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path
from urllib.parse import unquote

from retrace.event_log import EventLog
from retrace.pipeline import code_text, yaml_files
from retrace.pipeline.definition import Stage
from retrace.pipeline.workspace import Workspace
from retrace.store import run_context
from retrace.store.tracking_uri import address, sqlite_file
from retrace.tracking import file_store, sqlite_store
from retrace.tracking.foreign_run import ForeignRun

URI = re.compile(r"""tracking_uri["'\]\s]*[(=:,]\s*["']?([^\s"'(){}<>,]+)""", re.IGNORECASE)
DATABASES = (".db", ".sqlite", ".sqlite3")
MAX_RUNS = 200  # runs of a stage


def log(run: EventLog, workspace: Workspace, stage: Stage) -> None:
    """Log the runs that a stage made in stores of its own, as far as they can be read."""
    root = workspace.root
    since = run.header["time"]
    named = list(dict.fromkeys(_named(workspace, stage)))
    places = [place for place in _places(root, stage, named) if not _is_ours(place)]
    runs = (each for place in dict.fromkeys(places) for each in _read(place, since, root))
    for each in islice(runs, MAX_RUNS):
        run.run(each.values(), each.files())
    servers = [
        uri
        for uri in named
        if "://" in uri and not sqlite_file(uri) and not uri.startswith("file:")
    ]
    if servers:
        run.tags(**{run_context.STORES: ", ".join(servers)})


def _named(workspace: Workspace, stage: Stage) -> Iterator[str]:
    """Yield the addresses of stores in the stage's code."""
    for text in code_text.texts(workspace, stage):
        yield from URI.findall(text) if "tracking_uri" in text.lower() else ()


def _places(root: Path, stage: Stage, named: Iterable[str]) -> Iterator[Path]:
    """Yield the folders and files that may be stores: named in the code, or usual ones."""
    folder = root / stage.folder
    for uri in named:
        path = unquote(uri.removeprefix("file://").removeprefix("file:"))
        if file := sqlite_file(uri):
            yield (folder / file).resolve()
            yield (folder / unquote(str(file))).resolve()  # the stage may have a newer SQLAlchemy
        elif path and "://" not in path:
            yield (folder / path).resolve()
    outs = [root / out.path for out in stage.outs]
    for base in dict.fromkeys((root, folder)):
        yield (base / "mlruns").resolve()
        outs += [path for path in base.glob("*") if path.suffix in DATABASES]
    yield from (path.resolve() for path in outs if path.is_dir() or path.suffix in DATABASES)


def _is_ours(place: Path) -> bool:
    store = sqlite_file(address())
    return store is not None and store.resolve() == place


def _read(place: Path, since: int, root: Path) -> Iterator[ForeignRun]:
    """Yield the runs in a store that were created or changed since then; none if it is no store."""
    name = place.relative_to(root).as_posix() if place.is_relative_to(root) else str(place)
    with suppress(OSError, sqlite3.Error, *yaml_files.INVALID):
        if place.is_dir():
            yield from file_store.runs(place, since, name)
        elif place.is_file():
            yield from sqlite_store.runs(place, since, name)
