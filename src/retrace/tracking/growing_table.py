"""Read a table that grows: CSV, TSV or JSON lines, to which a running command adds rows."""

import csv
import io
import json
import math
import re
from collections.abc import Iterator, Mapping
from datetime import datetime
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from retrace.pipeline import metrics, overrides
from retrace.pipeline.plot_files import JSON_LINES

SEPARATED = (".csv", ".tsv")
JSON = (*JSON_LINES, ".json")
MAX_CHUNK = 1 << 20  # bytes that a call reads; also the longest line
MAX_ROWS = 10_000  # that are all returned; after them, every second, every fourth, and so on
MAX_POINTS = 100_000  # the same for a table of many columns
MAX_COLUMNS = 500
N_UNDECIDED = 100  # lines of JSON that may precede the first one with a step
HEAD, TAIL = 256, 64  # bytes by which a rewritten file is recognized
EARLIEST_S, LATEST_S = 1e9, 1e11  # of a time, in seconds since 1970: from 2001 on

QUOTED = re.compile(rb'(?:^|[\n\t,;])"[^"]*(?:""[^"]*)*(?P<closing>"|\Z)')  # a cell
MISSING = ("", "NA", "N/A", "null", "None", None)

Record = Mapping[str, Any]


class Row(NamedTuple):
    """A row of a table: its numbers by column, without the step and the time."""

    step: int
    values: dict[str, float]
    time: int | None  # in milliseconds since 1970, if the row has one


class Stamp(NamedTuple):
    """What changes whenever a file does."""

    inode: int
    size: int
    mtime_ns: int


def stamp(path: Path) -> Stamp | None:
    """Return the stamp of a file; None if there is no such file."""
    try:
        status = path.stat()
    except OSError:
        return None
    return Stamp(status.st_ino, status.st_size, status.st_mtime_ns)


class GrowingTable:
    """The rows of a file, read as far as its lines are complete.

    `problem` is why a table with a column of steps is not read any further. A table without such a
    column has no rows, and no problem either.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rewind()

    def rewind(self) -> None:
        """Read the file from its start again."""
        self.problem: str | None = None
        self.is_behind = False  # the file has more than the last call of `read` has read
        self._stamp: Stamp | None = None
        self._is_over = False
        self._position = 0
        self._head = b""
        self._tail = b""
        self._header: list[str] | None = None
        self._delimiter = ","
        self._candidates: list[str] = []
        self._counter: str | None = None
        self._step: float = -math.inf
        self._n_rows = 0
        self._no_numbers = {""}  # columns without a name, and those with texts or steps
        self._skipped: tuple[int, Record] | None = None

    def read(self) -> list[Row]:
        """Return the rows that were added since the last call, at most those of `MAX_CHUNK`.

        If the file was replaced or truncated, return its rows from the first one on.
        """
        now = stamp(self.path)
        if now == self._stamp and not self.is_behind:
            return []
        self.is_behind = False
        if now is None:
            return []
        try:
            with self.path.open("rb") as file:
                if self._is_rewritten(file, now):
                    self.rewind()
                file.seek(self._position)
                data = file.read(MAX_CHUNK)
        except OSError:
            return []
        self._stamp = now
        self.is_behind = len(data) == MAX_CHUNK and not self._is_over
        if self._is_over:
            return []
        rows: list[Row] = []
        try:
            rows.extend(self._rows(data))
        except (ValueError, csv.Error, RecursionError) as error:
            self._is_over = True
            self.is_behind = False
            self.problem = str(error) if self._candidates else None
        return rows

    def last(self) -> list[Row]:
        """Return the last row, if it was one of those left out of a long table."""
        skipped = self._skipped
        self._skipped = None
        return [self._row(*skipped)] if skipped else []

    def _is_rewritten(self, file: BinaryIO, now: Stamp) -> bool:
        if self._stamp and (now.inode != self._stamp.inode or now.size < self._position):
            return True
        if file.read(len(self._head)) != self._head:
            return True
        file.seek(self._position - len(self._tail))
        return file.read(len(self._tail)) != self._tail

    def _rows(self, data: bytes) -> Iterator[Row]:
        end = _complete(data, quoted=self._is_separated)
        if not end and len(data) == MAX_CHUNK:
            raise ValueError(f"row {self._n_rows + 1} is longer than {MAX_CHUNK:,} bytes")
        text = data[:end].decode("utf-8" if self._position else "utf-8-sig")
        if self._position < HEAD:
            self._head += data[: min(end, HEAD - self._position)]
        self._position += end
        self._tail = data[max(end - TAIL, 0) : end] or self._tail
        records = list(self._separated(text) if self._is_separated else self._lines(text))
        if self._counter is None:
            self._choose_counter(records)
        if self._counter is not None:
            yield from self._counted(records, self._counter)
        self._n_rows += len(records)

    def _choose_counter(self, records: list[Record]) -> None:
        """Choose the column of steps: the finest that counts. Raises ValueError if none does."""
        columns = dict.fromkeys(column for record in records for column in record)
        self._candidates = metrics.counters(columns)
        counting = (name for name in self._candidates if _counts(records, name))
        self._counter = next(counting, None)
        self._no_numbers |= {self._counter or ""}
        if self._counter is None and self._candidates:
            raise ValueError(f"{self._candidates[0]} is no integer, or goes back")
        is_undecided = not self._is_separated and self._n_rows + len(records) < N_UNDECIDED
        self._is_over = bool(records and self._counter is None and not is_undecided)

    def _counted(self, records: list[Record], counter: str) -> Iterator[Row]:
        for index, record in enumerate(records, self._n_rows):
            cell = record.get(counter)
            if cell in MISSING:
                continue
            step = _step(cell)
            if step is None or step < self._step:
                raise ValueError(f"{counter} is {cell} in row {index + 1}, after {self._step}")
            self._step = step
            size = max(index // MAX_ROWS, index * len(record) // MAX_POINTS)
            is_left_out = index % (1 << size.bit_length()) != 0
            self._skipped = (step, record) if is_left_out else None
            if not is_left_out:
                yield self._row(step, record)

    def _row(self, step: int, record: Record) -> Row:
        """Return the numbers of a row; a column that ever has a text is left out from then on."""
        numbers: dict[str, float] = {}
        for column, cell in record.items():
            if column in self._no_numbers or cell in MISSING or _is_time(column):
                continue
            number = _number(cell)
            if number is None:
                self._no_numbers.add(column)
            else:
                numbers[column] = number
        return Row(step, numbers, _time(record))

    @property
    def _is_separated(self) -> bool:
        return self.path.suffix.lower() in SEPARATED

    def _separated(self, text: str) -> Iterator[Record]:
        lines = io.StringIO(text, newline="")
        if self._header is None:
            first = text.partition("\n")[0]
            self._delimiter = max("\t,;", key=first.count)
        for cells in csv.reader(lines, delimiter=self._delimiter):
            row = [cell.strip() for cell in cells]
            if self._header is None:
                self._header = row
                if len(row) > MAX_COLUMNS:
                    raise ValueError(f"{len(row)} columns are more than {MAX_COLUMNS}")
            elif row and row != self._header:  # a resumed command may write the header again
                yield dict(zip(self._header, row, strict=False))

    def _lines(self, text: str) -> Iterator[Record]:
        for line in filter(str.strip, text.split("\n")):
            record = json.loads(line)
            if not isinstance(record, dict):
                raise ValueError(f"row {self._n_rows + 1} is no JSON object")
            yield overrides.flatten(record)


def _complete(data: bytes, *, quoted: bool) -> int:
    """Return the length of the complete lines; a line break between quotes ends none."""
    end = start = 0  # of the complete lines, and of what follows the last cell in quotes
    for match in QUOTED.finditer(data) if quoted else ():
        end = max(end, data.rfind(b"\n", start, match.start() + 1) + 1)
        if not match["closing"]:
            return end
        start = match.end()
    return max(end, data.rfind(b"\n", start) + 1)


def _counts(records: list[Record], column: str) -> bool:
    """Return whether a column has integers that do not go back."""
    cells = [cell for record in records if (cell := record.get(column)) not in MISSING]
    steps = [step for step in map(_step, cells) if step is not None]
    is_ascending = all(first <= second for first, second in pairwise(steps))
    return bool(steps) and len(steps) == len(cells) and is_ascending


def _step(cell: object) -> int | None:
    number = _number(cell)
    is_step = number is not None and number.is_integer() and abs(number) < 2**53
    return int(number) if number is not None and is_step else None


def _number(cell: object) -> float | None:
    """Return the number in a cell; None if it is a text."""
    if isinstance(cell, str):
        try:
            return None if "_" in cell else float(cell)
        except ValueError:
            return None
    if isinstance(cell, bool) or not isinstance(cell, int | float):
        return None
    return metrics.as_float(cell)


@lru_cache(1000)
def _is_time(column: str) -> bool:
    return column.strip("_").lower() == "timestamp"


def _time(record: Record) -> int | None:
    """Return the time of a row in milliseconds since 1970; None if it has none."""
    cell = next((cell for column, cell in record.items() if _is_time(column)), None)
    number = _number(cell)
    try:
        if number is None:
            number = datetime.fromisoformat(str(cell)).timestamp()
    except (ValueError, OverflowError):
        return None
    in_ms = (number * 1000, number)  # a number is in seconds, or else in milliseconds
    times = (int(ms) for ms in in_ms if 1000 * EARLIEST_S <= ms < 1000 * LATEST_S)
    return next(times, None)
