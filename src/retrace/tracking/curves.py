"""Follow the tables that a stage's command writes: their columns become metrics, step by step.

A table is CSV, TSV or JSON lines with a column that counts: `step`, `epoch`, `iteration` and the
like. Its other columns with numbers are the metrics. DVCLive's tables are found beside its
metrics.json, even if only that is declared.
"""

import math
import os
import time
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import islice, pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Event as Flag
from threading import Thread
from typing import NamedTuple

from retrace import event_log
from retrace.event_log import EventLog, now
from retrace.pipeline import metrics
from retrace.tracking.growing_table import JSON, SEPARATED, GrowingTable, Row, Stamp, stamp

POLL_S = 3.0
LAST_S = 10.0  # for what is still unread when the command has ended
MAX_FILES = 500
MAX_BEHIND = 16  # tables of which a poll reads as much as it may
MAX_FOLDERS = 1000
MAX_ENTRIES = 10_000  # of a folder
SETTLED_NS = 2 * 10**9  # a folder may change again within one tick of its file system's clock
DVCLIVE = ("plots", "metrics")  # with a table for each metric: plots/metrics/train/loss.tsv
TAG = "retrace.curves.left_out"
MAX_NAMED = 5  # tables in that tag


@contextmanager
def follow(
    log: EventLog, paths: Iterable[Path], interval_s: float = POLL_S
) -> Iterator["Follower"]:
    """Poll a `Follower` in a thread, and a last time after the block."""
    follower = Follower(log, paths)
    is_over = Flag()

    def poll() -> None:
        while not is_over.wait(interval_s):
            follower.poll()

    thread = Thread(target=poll, daemon=True)
    thread.start()
    try:
        yield follower
    finally:
        is_over.set()
        thread.join()
        follower.finish()


def log_new(log: EventLog, paths: Iterable[Path]) -> None:
    """Log the tables in these files and folders that have changed since the stage began."""
    Follower(log, paths, since_ns=log.header["time"] * 10**6).finish()


class Follower:
    """The tables in these files and folders, as far as their rows have been logged.

    Files that exist now are from an earlier run, unless they were changed after `since_ns`. They
    are left out until they change.
    """

    def __init__(self, log: EventLog, paths: Iterable[Path], since_ns: float = math.inf) -> None:
        self._log = log
        self._search = Search(paths)
        self._old: dict[Path, Stamp | None] = {
            path: stamp(path)
            for path in self._search.tables(is_thorough=True)
            if not path.exists() or path.stat().st_mtime_ns < since_ns
        }
        self._tables: dict[Path, GrowingTable] = {}
        self._names = defaultdict[Path, dict[str, str]](dict)  # metric by column
        self._owners = defaultdict[str, dict[Path, str]](dict)  # column by table, of each metric
        self._logged = defaultdict[Path, set[int]](set)
        self._position = log.path.stat().st_size  # earlier events are of other commands
        self._own: set[str] = set()  # metrics that were logged from tables
        self._of_stage: set[str] = set()  # metrics that the stage itself logs: not logged twice

    def poll(self, *, is_thorough: bool = False) -> None:
        """Log the rows that were added since the last call."""
        for path in self._search.tables(is_thorough=is_thorough):
            if path not in self._tables and stamp(path) != self._old.get(path):
                self._tables[path] = GrowingTable(path)
        rows: dict[Path, list[Row]] = {}
        n_behind = 0
        for path, table in self._tables.items():
            n_behind += table.is_behind
            if not table.is_behind or n_behind <= MAX_BEHIND:
                rows[path] = table.read()
        # All names first: they must not depend on the order of the tables.
        for path in self._name(rows):
            self._tables[path].rewind()
            rows[path] = self._tables[path].read()
        for path, added in rows.items():
            self._write(path, added)

    def finish(self) -> None:
        """Log what is left when the command has ended, and name the tables that are incomplete."""
        deadline = time.monotonic() + LAST_S
        self.poll(is_thorough=True)
        while self._behind() and time.monotonic() < deadline:
            self.poll()
        for path, table in self._tables.items():
            self._write(path, table.last())
        left_out = [f"{path}: {problem}" for path, problem in self.problems.items()]
        if left_out:
            n_more = len(left_out) - MAX_NAMED
            ending = [f"and {n_more} more"] if n_more > 0 else []
            self._log.tags(**{TAG: "; ".join(left_out[:MAX_NAMED] + ending)})

    @property
    def problems(self) -> dict[Path, str]:
        """Why the rest of a table is not followed, by path."""
        problems = {path: table.problem for path, table in self._tables.items() if table.problem}
        return problems | dict.fromkeys(self._behind(), "is long, and was not read to its end")

    def _behind(self) -> list[Path]:
        return [path for path, table in self._tables.items() if table.is_behind]

    def _write(self, path: Path, rows: list[Row]) -> None:
        """Log rows, without the points that the table had before it was rewritten."""
        if rows:
            self._read_log()
        polled = now()
        logged = self._logged[path]
        names = self._names[path]
        for step, values, own_time in rows:
            named = {names[column]: value for column, value in values.items()}
            points = {k: value for k, value in named.items() if k not in self._of_stage}
            keys = {name: hash((name, step, repr(value))) for name, value in points.items()}
            new = {name: value for name, value in points.items() if keys[name] not in logged}
            if new:
                logged.update(keys.values())
                self._own |= new.keys()
                self._log.metrics(new, step, polled if own_time is None else own_time)

    def _read_log(self) -> None:
        """Note which metrics the stage itself has logged by now."""
        events, self._position = event_log.read_from(self._log.path, self._position)
        for event in events:
            if event["kind"] == "metrics":
                self._of_stage |= event["values"].keys() - self._own

    def _name(self, rows: Mapping[Path, list[Row]]) -> set[Path]:
        """Name the columns of tables; return the tables of which a column got another name."""
        renamed: set[Path] = set()
        for path, added in rows.items():
            for column in dict.fromkeys(column for row in added for column in row.values):
                if column not in self._names[path]:
                    metric = _metric(path, column)
                    self._names[path][column] = metric
                    self._owners[metric][path] = column
                    if len(self._owners[metric]) > 1:
                        renamed |= self._add_prefixes(metric)
        return renamed

    def _add_prefixes(self, metric: str) -> set[Path]:
        """Add a prefix to the name of a metric that several tables have; return the renamed."""
        owners = self._owners[metric]
        renamed = {path for path, column in owners.items() if self._names[path][column] == metric}
        prefixes = metrics.prefixes(owners)
        taken = {name for names in self._names.values() for name in names.values()}
        for path in renamed:
            name = f"{prefixes[path]}/{metric}"
            is_taken = name in taken
            full = f"{path.with_suffix('').as_posix()}/{metric}"
            self._names[path][owners[path]] = full if is_taken else name
        return renamed


def read_all(paths: Iterable[Path]) -> dict[str, dict[int, float]]:
    """Return the curves in tables that are complete: the values by metric and step."""
    with TemporaryDirectory() as folder:
        log = EventLog(Path(folder), stage="curves")
        Follower(log, paths, since_ns=0).finish()
        log.end("FINISHED")
        events = event_log.read(log.path)
    curves = defaultdict[str, dict[int, float]](dict)
    for event in events:
        for name, value in event["values"].items() if event["kind"] == "metrics" else ():
            curves[name][event["step"]] = value
    return dict(curves)


class Listing(NamedTuple):
    """The content of a folder, when it was modified last, and when it was listed."""

    mtime_ns: int
    listed_ns: int
    folders: list[Path]
    tables: list[Path]

    def is_valid(self, mtime_ns: int) -> bool:
        """Return whether a folder that was modified at `mtime_ns` is as it was listed."""
        return mtime_ns == self.mtime_ns and self.listed_ns - mtime_ns > SETTLED_NS


class Search:
    """The tables in files and folders; a folder is listed again only if it has changed."""

    def __init__(self, paths: Iterable[Path]) -> None:
        declared = list(paths)
        beside = [
            path.parent.joinpath(*DVCLIVE) for path in declared if path.name == "metrics.json"
        ]
        self._paths = list(dict.fromkeys([*declared, *beside]))
        self._listings: dict[Path, Listing] = {}

    def tables(self, *, is_thorough: bool = False) -> list[Path]:
        """Return the paths of the tables, the declared ones first.

        `is_thorough` lists all folders, also those that seem to be as they were.
        """
        tables: dict[Path, None] = {}
        left = deque(self._paths)
        n_folders = 0
        while left and len(tables) < MAX_FILES and n_folders < MAX_FOLDERS:
            path = left.popleft()
            if path.suffix.lower() in (*SEPARATED, *JSON):
                tables[path] = None
            elif listing := self._listing(path, is_thorough=is_thorough):
                n_folders += 1
                left += listing.folders
                tables |= dict.fromkeys(listing.tables)
        return list(islice(tables, MAX_FILES))

    def _listing(self, folder: Path, *, is_thorough: bool) -> Listing | None:
        """Return the content of a folder; None if there is no such folder."""
        try:
            mtime_ns = folder.stat().st_mtime_ns
            known = self._listings.get(folder)
            if known and known.is_valid(mtime_ns) and not is_thorough:
                return known
            listed_ns = time.time_ns()
            with os.scandir(folder) as entries:
                listed = sorted(islice(entries, MAX_ENTRIES), key=lambda entry: entry.name)
        except OSError:
            return None
        folders = [folder / entry.name for entry in listed if entry.is_dir(follow_symlinks=False)]
        tables = [
            folder / entry.name
            for entry in listed
            if Path(entry.name).suffix.lower() in (*SEPARATED, *JSON)
        ]
        self._listings[folder] = Listing(mtime_ns, listed_ns, folders, tables)
        return self._listings[folder]


def _metric(path: Path, column: str) -> str:
    """Return the metric of a column: its name, or for DVCLive's tables the path in their folder."""
    parts = path.with_suffix("").parts
    starts = [start + 2 for start, pair in enumerate(pairwise(parts)) if pair == DVCLIVE]
    is_dvclive = bool(starts) and column == parts[-1]
    return "/".join(parts[starts[0] :]) if is_dvclive else column
