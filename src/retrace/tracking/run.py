"""The run of a stage as its own code sees it: checked values become events of the event log."""

import csv
import io
import os
import reprlib
from collections.abc import Callable, Iterable, Mapping
from operator import index
from pathlib import Path, PurePath
from typing import Any, SupportsFloat

from retrace.errors import DataError, RetraceError
from retrace.event_log import EventLog
from retrace.system import files

AnyPath = str | os.PathLike[str]
DELIMITERS = {".csv": ",", ".tsv": "\t"}
MAX_STEP = 2**63 - 1  # of MLflow's database


class Run(EventLog):
    """The run of a stage.

    What is logged is in the event log at once, and in MLflow soon after. Wrong values are refused
    here: the background uploader could not say where they come from.
    """

    @property
    def is_mine(self) -> bool:
        """Whether this process has opened the event log, and not the one that it is a fork of."""
        return self.header["process"]["pid"] == os.getpid()

    def end(self, status: str, **more: Any) -> None:
        """Close the event log with an MLflow status, unless this process is a fork."""
        if self.is_mine:
            super().end(status, **more)

    def log(
        self, metrics: Mapping[str, SupportsFloat], step: int = 0, timestamp: int | None = None
    ) -> None:
        """Log metrics of a step, such as an epoch; the same step again adds to it.

        Scalars of NumPy and PyTorch are numbers too. `timestamp` is in milliseconds since 1970, by
        default now. Raises TypeError for anything else.
        """
        self.metrics(_numbers(metrics), step if type(step) is int else _step(step), timestamp)

    def summary(self, values: Mapping[str, SupportsFloat]) -> None:
        """Log the metrics by which experiments are compared: the experiment's run has them too.

        Without a call, they are read from the stage's metrics files when it ends.
        """
        super().summary(_numbers(values))

    def set_tags(self, tags: Mapping[str, object] | None = None, /, **more: object) -> None:
        """Set tags: facts about the run that are neither parameters nor metrics.

        A tag whose name is no Python name is in the mapping: `set_tags({"data.source": "cache"})`.
        """
        named = dict(tags or {}) | more
        self.tags(**{name: str(value) for name, value in named.items()})

    def log_artifact(self, path: AnyPath, *, summary: bool = False) -> None:
        """Log a file, or all files in a folder, as it is now.

        MLflow shows its path in the repository; with `summary`, the experiment's run has it too.
        Raises DataError if it does not exist.
        """
        root, paths = _located(path, "log_artifact")
        for each in paths:
            self.artifact(each, summary=summary, root=root)

    def log_table(self, name: str, rows: Iterable[Any]) -> None:
        """Log rows as a CSV or TSV file of this name.

        Rows are mappings, named tuples, or lists, the first of which has the names of the columns;
        a data frame of pandas has rows too. Raises RetraceError for another suffix.
        """
        delimiter = DELIMITERS.get(PurePath(name).suffix)
        if delimiter is None:
            raise RetraceError(f"log_table: {name!r} should end in {' or '.join(DELIMITERS)}")
        text = io.StringIO()
        csv.writer(text, delimiter=delimiter, lineterminator="\n").writerows(_lines(rows))
        self.attach(name, text.getvalue().encode())

    def log_model(self, path: AnyPath) -> None:
        """Log a model that the stage made: a file, or a folder, such as one with an MLmodel.

        Without a call, the outputs that dvc.yaml calls models in `artifacts:` are logged when the
        stage ends. Raises DataError if it does not exist.
        """
        root, _ = _located(path, "log_model")
        relative = Path(os.path.normpath(Path(path).absolute())).relative_to(root)
        self.model_files(relative, relative.stem, root=root)


class Untracked(Run):
    """A run that keeps nothing: outside DVC, and on other ranks than 0. Values are checked."""

    def __init__(self) -> None:
        self.id = ""
        self.path = Path(os.devnull)
        self.header = {"stage": ""}
        self._full = True  # no event is written

    def model_files(self, path: Path, name: str, *, root: Path = Path()) -> None:
        del path, name, root

    def _copy(self, path: Path, write: Callable[[Path], object]) -> None:
        del path, write

    def end(self, status: str, **more: Any) -> None:
        del status, more


def _numbers(metrics: Mapping[str, SupportsFloat]) -> dict[str, float]:
    """Return metrics as numbers that JSON has. Raises TypeError."""
    if not isinstance(metrics, Mapping):
        example = 'log({"loss": 0.5}, step=1)'
        raise TypeError(f"metrics are {_short(metrics)}; should be a dict: {example}")
    return {
        name if type(name) is str else _name(name): value
        if type(value) is float or type(value) is int
        else _number(name, value)
        for name, value in metrics.items()
    }


def _number(name: str, value: Any) -> float:
    """Return a scalar of any library as a number."""
    try:
        return float(value.item() if hasattr(value, "item") else value.__float__())
    except (AttributeError, TypeError, ValueError, RuntimeError, OverflowError):
        allowed = "should be a number; set_tags is for texts"
        raise TypeError(f"metric {name} is {_short(value)}; {allowed}") from None


def _name(name: object) -> str:
    raise TypeError(f"the name of a metric is {_short(name)}; should be text")


def _step(step: Any) -> int:
    """Return an integer of any library as a step. Raises TypeError."""
    try:
        return index(step)
    except TypeError:
        raise TypeError(f"step is {_short(step)}; should be an integer") from None


def _short(value: object) -> str:
    return f"{reprlib.repr(value)} ({type(value).__name__})"


def _located(path: AnyPath, function: str) -> tuple[Path, list[Path]]:
    """Return the repository, and a file or all files in a folder, relative to it.

    Of a file outside the repository, the folder that it is in is returned.
    """
    full = Path(os.path.normpath(Path(path).absolute()))
    if not full.exists():
        raise DataError(f"{function}: {path} does not exist; name a file or folder that does")
    root = files.repository(Path.cwd())
    root = root if full != root and full.is_relative_to(root) else full.parent
    return root, [each.relative_to(root) for each in files.within(full)]


def _lines(rows: Any) -> list[Any]:
    """Return the rows of a table as sequences, after one with the names of its columns."""
    entries = list(rows.to_dict("records") if hasattr(rows, "to_dict") else rows)
    if entries and all(isinstance(entry, Mapping) for entry in entries):
        columns = list(dict.fromkeys(column for entry in entries for column in entry))
        return [columns, *([entry.get(column) for column in columns] for entry in entries)]
    if not all(isinstance(entry, list | tuple) for entry in entries):
        allowed = "should be all mappings, or all named tuples or lists"
        raise TypeError(f"log_table: the rows are {_short(entries)}; {allowed}")
    header = [entries[0]._fields] if entries and hasattr(entries[0], "_fields") else []
    return [*header, *entries]
