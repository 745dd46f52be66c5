"""Tables of images and their labels: CSV, TSV, JSON lines and Parquet, from bytes to rows of text.

Rows are numbered as a spreadsheet numbers them: the header of a CSV is row 1.
"""

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from lab.data.unusable import printable
from retrace.errors import DataError

if TYPE_CHECKING:
    from pyarrow.parquet import ParquetFile

SUFFIXES = (".csv", ".tsv", ".jsonl", ".parquet")
DELIMITERS = ",;\t"
MAX_ROWS = 10_000_000
MAX_PARQUET_BYTES = 1 << 30  # of the columns in use, uncompressed
BLOCK = 10_000  # rows
INVALID = (ValueError, csv.Error, OSError, RecursionError)
TEXT_OR_INTEGER = "should be text or an integer"


class Row(NamedTuple):
    """A row: its number, and its cells as text in the order of the wanted columns."""

    number: int
    cells: tuple[str, ...]


def read(name: str, content: bytes, columns: Sequence[str]) -> Iterator[Row]:
    """Yield the rows of a table by its suffix, with these columns only.

    Empty and missing cells are empty text. Raises DataError with one line, which begins with
    `name`, if the table can't be read or lacks a column.
    """
    suffix = name[name.rfind(".") :].lower()
    readers = {".jsonl": _json_lines, ".parquet": _parquet}
    try:
        for count, row in enumerate(readers.get(suffix, _csv)(content, columns), 1):
            if count > MAX_ROWS:
                raise ValueError(f"more than {MAX_ROWS:,} rows")
            yield row
    except INVALID as error:
        raise DataError(f"{name}: {_reason(error)}") from None


def header(name: str, content: bytes) -> list[str]:
    """Return the names of the columns; of JSON lines, the keys of the first."""
    suffix = name[name.rfind(".") :].lower()
    try:
        if suffix == ".parquet":
            return list(_parquet_file(content).schema_arrow.names)
        if suffix == ".jsonl":
            return list(next(_objects(content), (1, {}))[1])
        return next(csv.reader(_text(content), delimiter=_delimiter(content, ())), [])
    except INVALID as error:
        raise DataError(f"{name}: {_reason(error)}") from None


def _reason(error: Exception) -> str:
    if isinstance(error, UnicodeDecodeError):
        return "is not UTF-8; save it as CSV in UTF-8"
    return printable(" ".join(str(error).split())) or type(error).__name__


def _csv(content: bytes, columns: Sequence[str]) -> Iterator[Row]:
    reader = csv.reader(
        _text(content), delimiter=_delimiter(content, columns), skipinitialspace=True, strict=True
    )
    names = [name.strip() for name in next(reader, [])]
    positions = _positions(names, columns)
    for number, cells in enumerate(_cells(reader), 2):
        if not cells:
            continue
        if len(cells) > len(names):
            raise ValueError(
                f"row {number}: {len(cells)} cells, more than the {len(names)} columns; "
                "put quotes around cells with a delimiter in them"
            )
        padded = [*cells, *[""] * (len(names) - len(cells))]
        yield Row(number, tuple(padded[position] for position in positions))


def _cells(reader: Iterator[list[str]]) -> Iterator[list[str]]:
    """Yield the rows below the header. Raises ValueError, which names the row, for a broken one."""
    number = 2
    try:
        for cells in reader:
            yield cells
            number += 1
    except csv.Error as error:
        raise ValueError(f"row {number}: {error}") from None


def _text(content: bytes) -> io.TextIOWrapper:
    """Return the text of a file, without the byte order mark that spreadsheets write."""
    return io.TextIOWrapper(io.BytesIO(content), encoding="utf-8-sig", newline="")


def _delimiter(content: bytes, columns: Sequence[str]) -> str:
    """Return the delimiter with which the header has all columns, else most of them."""
    first = _text(content).readline()

    def count(delimiter: str) -> tuple[int, int]:
        names = next(csv.reader([first], delimiter=delimiter, skipinitialspace=True), [])
        stripped = {name.strip() for name in names}
        return len(stripped & set(columns)), len(names)

    return max(DELIMITERS, key=count)


def _positions(names: Sequence[str], columns: Sequence[str]) -> list[int]:
    for column in columns:
        if column not in names:
            listed = ", ".join(names) or "none"
            raise ValueError(f"has no column {column!r}; its columns are {listed}")
    return [names.index(column) for column in columns]


def _json_lines(content: bytes, columns: Sequence[str]) -> Iterator[Row]:
    known: set[str] = set()
    for number, values in _objects(content):
        if not known:
            known = set(values)
            _positions(list(values), columns)
        yield Row(number, tuple(_cell(values.get(name), number, name) for name in columns))


def _objects(content: bytes) -> Iterator[tuple[int, Mapping[str, object]]]:
    for number, line in enumerate(_text(content), 1):
        if line.strip():
            try:
                values = json.loads(line)
            except ValueError as error:
                raise ValueError(f"row {number} is not JSON: {error}") from None
            if not isinstance(values, dict):
                raise ValueError(f"row {number} is not a JSON object")
            yield number, values


def _parquet_file(content: bytes) -> "ParquetFile":
    import pyarrow.parquet

    return pyarrow.parquet.ParquetFile(pyarrow.BufferReader(content))


def _parquet(content: bytes, columns: Sequence[str]) -> Iterator[Row]:
    """Yield the rows, a block at a time."""
    file = _parquet_file(content)
    names = file.schema_arrow.names
    _positions(names, columns)
    if file.metadata.num_rows > MAX_ROWS:
        raise ValueError(f"more than {MAX_ROWS:,} rows")
    groups = (file.metadata.row_group(i) for i in range(file.metadata.num_row_groups))
    chunks = (group.column(i) for group in groups for i in range(group.num_columns))
    used = (chunk for chunk in chunks if chunk.path_in_schema.split(".")[0] in columns)
    if sum(chunk.total_uncompressed_size for chunk in used) > MAX_PARQUET_BYTES:
        raise ValueError(f"its columns have more than {MAX_PARQUET_BYTES:,} bytes")
    number = 0
    for batch in file.iter_batches(BLOCK, columns=list(dict.fromkeys(columns))):
        values = [batch.column(name).to_pylist() for name in columns]
        for cells in zip(*values, strict=True):
            number += 1
            texts = zip(cells, columns, strict=True)
            yield Row(number, tuple(_cell(cell, number, name) for cell, name in texts))


def _cell(value: object, number: int, column: str) -> str:
    """Return a cell as text. Raises ValueError for what is neither text nor an integer."""
    if value is None:
        return ""
    if isinstance(value, str | int):
        return str(value)
    raise ValueError(f"row {number}: {column} is {value!r:.40}; {TEXT_OR_INTEGER}")
