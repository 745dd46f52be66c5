"""The event log of a stage: an append-only file of JSON lines that outlives process and server.

The first line names the stage and its experiment; metrics, tags and artifacts follow as they are
logged; an end has the status. A killed stage leaves an event log without an end. A folder of
the same name has copies of the artifacts, because the files may change before they are uploaded.
Once MLflow has all of an event log, it is moved to `uploaded/` and its copies are deleted.
"""

import os
import shutil
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path, PurePath
from typing import Any, Self

from retrace.errors import DataError, RetraceError, reason
from retrace.pipeline import hashing
from retrace.pipeline.definition import Stage
from retrace.system import files, json_lines, processes
from retrace.system.redaction import redacted_all

Event = dict[str, Any]
# Folders among the copies: artifacts of runs in other MLflow stores, models by their MD5.
OTHER_RUNS = "other_runs"
MODELS = "logged_models"
LATER = "later events"  # in the tag of a run whose event log could not be written any further


class EventLog:
    """The event log of a running stage. Each event is one line, written at once.

    Raises DataError if it cannot be created. When the disk fills up later, a warning is printed and
    events are lost, but the stage continues.
    """

    def __init__(self, folder: Path, **header: Any) -> None:
        stage = files.file_name(header["stage"])
        self.id = f"{time.strftime('%Y%m%dT%H%M%S')}-{stage}-{uuid.uuid4().hex[:8]}"
        self.path = folder / f"{self.id}.jsonl"
        self._full = False
        self._is_torn = False
        start = {"kind": "start", "time": now(), "id": self.id, "process": processes.identity()}
        self.header = start | header
        try:
            folder.mkdir(parents=True, exist_ok=True)
            unfinished = folder / f".{self.id}"
            self._file = os.open(
                unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o644
            )
            json_lines.append(self._file, redacted_all(self.header))
            os.fsync(self._file)
            unfinished.rename(self.path)
        except OSError as error:
            (folder / f".{self.id}").unlink(missing_ok=True)
            reason = f"no event log can be written there ({error.strerror})"
            raise DataError(
                f"{folder}: {reason}; free some disk space or make the folder writable"
            ) from None

    @classmethod
    def reopen(cls, path: Path) -> Self:
        """Return the event log at `path`, to append to it from another process of its stage."""
        log = cls.__new__(cls)
        log.id = path.stem
        log.path = path
        log.header = read(path)[0]
        log._full = False
        log._is_torn = False
        log._file = os.open(path, os.O_WRONLY | os.O_APPEND)
        return log

    def metrics(self, values: Mapping[str, float], step: int = 0, at: int | None = None) -> None:
        """Log metrics of a step, now or `at` a time in milliseconds since 1970."""
        event: Event = {"step": step, "values": dict(values)}
        self._write("metrics", event if at is None else event | {"time": at})

    def summary(self, values: Mapping[str, float]) -> None:
        """Log the summary metrics, by which whole pipelines are compared.

        They belong to the experiment. Those without a curve are metrics of the stage's run as well.
        """
        prefix = Stage(self.header["stage"], ()).metrics_prefix
        self.results(values, {f"{prefix}{name}": value for name, value in values.items()})

    def results(self, values: Mapping[str, float], named: Mapping[str, float]) -> None:
        """Log the numbers of metrics files, and the same as they are `named` in the experiment."""
        events = read(self.path)
        logged = {name for each in events if each["kind"] == "metrics" for name in each["values"]}
        alone = {name: value for name, value in values.items() if name not in logged}
        if alone:
            self.metrics(alone)
        self._write("headline", {"step": 0, "values": dict(named)})

    def tags(self, **tags: str) -> None:
        """Log facts about the run that are neither parameters nor metrics."""
        self._write("tags", redacted_all({"values": tags}))

    def artifact(self, path: Path, *, summary: bool = False, root: Path = Path()) -> None:
        """Log a file that the stage made; with `summary=True` the parent run shows it too.

        `path` is relative to `root`, by default the working directory.
        """
        self._copy(path, partial(shutil.copyfile, root / path))
        self._write("artifact", {"path": str(path), "headline": summary})

    def attach(self, name: str, content: bytes) -> None:
        """Log `content` as an artifact, without a file of the stage."""
        self._copy(Path(name), lambda copy: copy.write_bytes(content))
        self._write("artifact", {"path": name, "headline": False})

    def model(self, weights: Path, config: Path) -> None:
        """Log the model that the stage made."""
        for path in (weights, config):
            self._copy(path, partial(shutil.copyfile, path))
        self._write("model", {"weights": str(weights), "card": str(config)})

    def model_files(self, path: Path, name: str, *, root: Path = Path()) -> None:
        """Log a model that the stage made, as it is: a file, or all files in a folder.

        `path` is relative to `root`, by default the working directory.
        """
        full = root / path
        with self.recording(str(path)):
            md5 = hashing.md5(full)
            for file in files.within(full):
                inside = file.relative_to(full if full.is_dir() else full.parent)
                self._copy(Path(MODELS, md5, inside), partial(shutil.copyfile, file))
            self._write("model_files", {"path": str(path), "name": name, "md5": md5})

    def run(self, values: Event, artifacts: Mapping[str, Path]) -> None:
        """Log a run that the stage's code made in another MLflow store, and its artifacts."""
        for name, file in artifacts.items():
            self._copy(Path(OTHER_RUNS, values["id"], name), partial(shutil.copyfile, file))
        self._write("run", redacted_all({"values": values}))

    def lost(self, *names: str, why: str) -> None:
        """Log that something could not be recorded, such as `commit`; print a line of warning."""
        text = " ".join(why.split())
        print(f"warning: not recorded with this run: {', '.join(names)}: {text}", file=sys.stderr)
        self._write("lost", redacted_all({"values": dict.fromkeys(names, text)}))

    @contextmanager
    def recording(self, name: str) -> Iterator[None]:
        """Log that `name` is lost if it cannot be read or written; the stage continues."""
        try:
            yield
        except (OSError, RetraceError) as error:
            self.lost(name, why=reason(error))

    def command(self, line: str) -> None:
        """Log that a command of a stage has ended well, and that another one follows."""
        self._write("command", redacted_all({"line": line}))

    def end(self, status: str, **more: Any) -> None:
        """Close the event log with an MLflow status: FINISHED, FAILED or KILLED."""
        if self._full:  # there may be space again
            self._full = False
            self.lost(LATER, why="the event log could not be written")
        self._write("end", redacted_all({"status": status} | more))
        self.sync()
        os.close(self._file)

    def sync(self) -> None:
        """Make all events so far durable."""
        if not self._full:
            os.fsync(self._file)

    def has_summary(self) -> bool:
        """Return whether summary metrics were logged, also by another process."""
        return any(event["kind"] == "headline" for event in read(self.path))

    def _copy(self, path: Path, write: Callable[[Path], object]) -> None:
        copy = copy_of(self.path, path)
        with self.recording(str(path)):
            try:
                copy.parent.mkdir(parents=True, exist_ok=True)
                write(copy)
            except OSError:
                with suppress(OSError):
                    copy.unlink(missing_ok=True)  # it would be taken for a complete one
                raise

    def _write(self, kind: str, event: Event) -> None:
        if self._full:
            return
        try:
            line = {"kind": kind, "time": now(), **event}
            json_lines.append(self._file, line, is_torn=self._is_torn)
            self._is_torn = False
        except OSError as error:
            self._full = self._is_torn = True
            lost = f"{LATER} of this run will be missing in MLflow"
            print(f"warning: {self.path}: {error.strerror}; {lost}", file=sys.stderr)


def read(path: Path) -> list[Event]:
    """Return the events of an event log, without lines that a kill or a full disk cut short."""
    return read_from(path, 0)[0]


def read_from(path: Path, position: int) -> tuple[list[Event], int]:
    """Return the events from the byte `position` on, and the position after them."""
    values, position = json_lines.read_from(path, position)
    return [value for value in values if "kind" in value], position


def folder() -> Path:
    """Return the folder of the event logs, in the main repository."""
    return files.root() / ".retrace" / "journal"


def copies(path: Path) -> Path:
    """Return the folder that keeps the artifacts of an event log until they are uploaded."""
    return path.with_suffix("")


def copy_of(log: Path, path: str | Path) -> Path:
    """Return where the copy of the artifact `path` is kept: inside `copies`, wherever `path` is."""
    outside = {"/": "root_", "..": "parent_"}
    return copies(log).joinpath(*(outside.get(part, part) for part in PurePath(path).parts))


def model_copy(log: Path, event: Event) -> Path | None:
    """Return the copy of a model's file or folder; None if it is not complete."""
    folder = copies(log) / MODELS / event["md5"]
    copy = folder if event["md5"].endswith(".dir") else folder / PurePath(event["path"]).name
    return copy if copy.exists() and hashing.md5(copy) == event["md5"] else None


def close(path: Path) -> None:
    """End the event log of a stage whose process no longer exists.

    The status is KILLED, the time that of its last event.
    """
    events = read(path)
    if events and not end_of(events):
        reason = "the process ended without a status: it was killed (SIGKILL, out of memory), "
        reason += "or the machine lost power"
        end = {"kind": "end", "time": events[-1]["time"], "status": "KILLED", "error": reason}
        append(path, end)


def end_of(events: list[Event]) -> Event | None:
    """Return the event that says how the stage ended, if it has.

    It need not be the last: other processes append events as well.
    """
    return next((event for event in events if event["kind"] == "end"), None)


def is_over(path: Path) -> bool:
    """Return whether the stage of an event log has ended, in whatever way."""
    try:
        events = read(path)
    except FileNotFoundError:  # uploaded just now, by another process
        return True
    if not events or events[0]["kind"] != "start" or end_of(events):
        return True
    return not processes.alive(events[0]["process"])


def append(path: Path, event: Event) -> None:
    """Append an event from another process than the stage's."""
    torn = not path.read_bytes().endswith(b"\n")
    file = os.open(path, os.O_WRONLY | os.O_APPEND)
    try:
        json_lines.append(file, event, is_torn=torn)
        os.fsync(file)
    finally:
        os.close(file)


def pending(folder: Path) -> list[Path]:
    """List the event logs that are not completely uploaded, oldest first."""
    return sorted(folder.glob("*.jsonl"))


def pending_processes() -> set[str]:
    """Return the processes of the event logs that MLflow does not have yet, as lines."""
    lines: set[str] = set()
    for path in pending(folder()):
        with suppress(FileNotFoundError, IndexError, KeyError):  # uploaded just now; torn
            lines.add(processes.to_line(read(path)[0]["process"]))
    return lines


def archive(path: Path) -> None:
    """Move an event log to `uploaded/`, then delete its copies.

    Copies that a kill in between has left are deleted too.
    """
    done = path.parent / "uploaded"
    done.mkdir(exist_ok=True)
    path.rename(done / path.name)
    for folder in path.parent.iterdir():
        if folder.is_dir() and folder != done and not Path(f"{folder}.jsonl").exists():
            shutil.rmtree(folder, ignore_errors=True)


def now() -> int:
    """Return the time in milliseconds since 1970, the unit used in events."""
    return time.time_ns() // 1_000_000
