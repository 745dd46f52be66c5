"""Tell whether a metric should be high or low, and read DVC's metrics files.

The format is that of the suffix, as for DVC: JSON, TOML, else YAML; CSV and TSV are read as well.
"""

import csv
import io
import json
import math
import re
import tomllib
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any, Literal

from retrace.pipeline import params_yaml

Direction = Literal["minimize", "maximize"]

# scikit-learn's convention (*_score and *_accuracy up, *_loss and *_error down), and common names.
MINIMIZED = re.compile(
    r"(^|[^a-z0-9])(m?(log)?loss|m?error|error_rate|divergence|deviance|perplexity|r?mse|mae|mape"
    r"|s|ms|seconds|latency)$",
    re.IGNORECASE,
)
MAXIMIZED = re.compile(r"(^|[^a-z0-9])(neg_\w+|\w+_per_(s|ms|seconds))$", re.IGNORECASE)

# Columns that count, the finest first; `global_step`, `Global Step` and `time/iterations` as well.
COUNTERS = (
    *("globalstep", "step", "trainstep", "trainerstep", "totaltimestep", "timestep"),
    *("iteration", "iter", "update", "epoch", "round", "boostinground", "generation"),
    *("episode", "trial", "batch"),
)
TABLES = (".csv", ".tsv")
MAX_VALUES = 10_000  # of a file, tables and lists included
MAX_TEXT = 250  # characters of a text that is worth a tag
MAX_ROWS = 100  # of a table with a metric in each row
MAX_OUT_BYTES = 64 << 10
MAX_OUT_NUMBERS = 50  # an output with more is no list of metrics, but a vocabulary
OUTS = (".json", ".yaml", ".yml", ".toml")


@dataclass
class Contents:
    """What metrics files contain, by dotted key, and why some of them could not be read."""

    numbers: dict[str, float] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)
    problems: dict[Path, str] = field(default_factory=dict)


def is_minimized(name: str, minimize: Iterable[str] = ()) -> bool:
    """Return whether a lower value of a metric is better, by its name.

    `minimize` has names of further such metrics, as the setting `metrics.minimize`.
    """
    if not {name, name.rpartition("/")[2]}.isdisjoint(minimize):
        return True
    return bool(MINIMIZED.search(name)) and not MAXIMIZED.search(name)


def direction(name: str) -> Direction:
    """Return Optuna's optimization direction of a metric."""
    return "minimize" if is_minimized(name) else "maximize"


def counters(columns: Iterable[str]) -> list[str]:
    """Return those columns that count steps or epochs, by their names, the finest first."""
    ranked = [(_counter(column), column) for column in columns]
    known = [(COUNTERS.index(name), column) for name, column in ranked if name in COUNTERS]
    return [column for _, column in sorted(known)]


def parse_metrics(content: bytes | str) -> dict[str, float]:
    """Return the numbers of a JSON metrics file by dotted key; none if it is not an object.

    Raises ValueError if it is not JSON.
    """
    values = json.loads(content)
    return _contents(values).numbers if isinstance(values, dict) else {}


def read(path: Path) -> Contents:
    """Read a metrics file. Raises ValueError if it cannot be parsed, and OSError.

    A file that is one number or text has the key "".
    """
    return parse(path.read_bytes(), path.suffix)


def parse(content: bytes, suffix: str) -> Contents:
    """Parse the content of a metrics file with that suffix. Raises ValueError."""
    try:
        return _contents(_parsed(content, suffix.lower()))
    except (csv.Error, RecursionError) as error:
        raise ValueError(str(error)) from None


def read_all(files: Iterable[Path]) -> Contents:
    """Read metrics files, and those in folders; missing ones are left out.

    A key that several files have gets a prefix: the part of the path in which they differ.
    """
    contents: dict[Path, Contents] = {}
    problems: dict[Path, str] = {}
    for file in dict.fromkeys(_files(files)):
        try:
            contents[file] = _named(read(file), file.stem)
        except FileNotFoundError:
            continue
        except (ValueError, OSError) as error:
            problems[file] = " ".join(str(error).split())
    return _merged(contents, problems)


def read_outs(files: Iterable[Path]) -> Contents:
    """Read the numbers in small JSON, YAML and TOML files that are not declared as metrics.

    What is large, cannot be parsed or has many numbers is something else, and left out.
    """
    small = [
        file
        for file in _files(files)
        if file.suffix.lower() in OUTS and file.is_file() and file.stat().st_size <= MAX_OUT_BYTES
    ]
    contents: dict[Path, Contents] = {}
    for file in dict.fromkeys(small):
        try:
            numbers = _named(read(file), file.stem).numbers
        except (ValueError, OSError):
            continue
        if len(numbers) <= MAX_OUT_NUMBERS:
            contents[file] = Contents(numbers)
    return _merged(contents, {})


def prefixes(files: Iterable[PurePath]) -> dict[PurePath, str]:
    """Return a short name for each file: the part of its path, without suffix, that differs.

    It is `a` and `b` for `runs/a/metrics.json` and `runs/b/metrics.json`.
    """
    paths = {file: file.with_suffix("").parts for file in files}
    start = _n_common(list(paths.values()))
    end = _n_common([parts[start:][::-1] for parts in paths.values()])
    short = {file: "/".join(parts[start : len(parts) - end]) for file, parts in paths.items()}
    counts = Counter(short.values())
    is_unique = all(name and counts[name] == 1 for name in short.values())
    if is_unique and len(short) > 1:
        return short
    stems = Counter(map("/".join, paths.values()))
    return {
        file: file.as_posix() if stems["/".join(parts)] > 1 else "/".join(parts)
        for file, parts in paths.items()
    }


def as_float(number: float) -> float:
    """Return a number as a float; an integer that is too large is infinite."""
    try:
        return float(number)
    except OverflowError:
        return math.inf if number > 0 else -math.inf


def _counter(column: str) -> str:
    """Return the last part of a column's name in lower case, in the singular."""
    last = re.sub(r"[\W_]", "", column.rpartition("/")[2].lower())
    return last.removesuffix("s")


def _parsed(content: bytes, suffix: str) -> Any:
    """Return the plain values in a file: no parser here makes objects of any other type."""
    if suffix in TABLES:
        return _table(content.decode("utf-8-sig"), "\t" if suffix == ".tsv" else ",")
    if suffix == ".json":
        return json.loads(content)
    if suffix == ".toml":
        return tomllib.loads(content.decode())
    return params_yaml.load(content)


def _contents(values: Any) -> Contents:
    """Return the numbers and short texts in nested tables. Raises ValueError if they are many."""
    contents = Contents()
    for key, value in _leaves(values):
        if isinstance(value, bool):
            contents.texts[key] = str(value).lower()
        elif isinstance(value, int | float):
            contents.numbers[key] = value
        elif isinstance(value, str) and 0 < len(value.strip()) <= MAX_TEXT:
            contents.texts[key] = value
    return contents


def _leaves(values: Any) -> Iterator[tuple[str, Any]]:
    """Yield the values in nested tables by dotted key, in order.

    Raises ValueError if there are too many: a few lines of YAML can expand to billions.
    """
    left = [("", values)]
    n_values = 0
    while left:
        key, value = left.pop()
        n_values += 1
        if n_values > MAX_VALUES:
            raise ValueError(f"has more than {MAX_VALUES:,} values")
        if isinstance(value, dict):
            prefix = f"{key}." if key else ""
            left += [(f"{prefix}{name}", child) for name, child in reversed(value.items())]
        else:
            yield key, value


def _table(text: str, delimiter: str) -> Any:
    """Return the metrics in a table, by the form that it has.

    A history has those of its last row; a table of one row those of its columns; a table with
    names in the first column those of each name, as scikit-learn's classification report.
    """
    rows = [row for row in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter) if row]
    if len(rows) < 2:
        return {}
    header, *cells = [[cell.strip() for cell in row] for row in rows]
    records = [list(map(_cell, row)) for row in cells]
    if counters(header):
        return dict(zip(header, records[-1], strict=False))
    labels = [row[0] for row in records]
    are_names = all(isinstance(label, str) and label for label in labels)
    if are_names and len(set(labels)) == len(labels) <= MAX_ROWS and _are_numbers(records):
        if len(header) == 2:
            return {label: row[1] for label, row in zip(labels, records, strict=True)}
        return {
            label: dict(zip(header[1:], row[1:], strict=False))
            for label, row in zip(labels, records, strict=True)
        }
    return dict(zip(header, records[0], strict=False)) if len(records) == 1 else {}


def _are_numbers(records: Sequence[Sequence[Any]]) -> bool:
    """Return whether all cells after the first of each row are numbers or empty."""
    return all(not isinstance(cell, str) or not cell for row in records for cell in row[1:])


def _cell(text: str) -> float | str:
    try:
        return text if "_" in text else float(text)
    except ValueError:
        return text


def _files(paths: Iterable[Path]) -> Iterator[Path]:
    for path in paths:
        inside = sorted(path.rglob("*")) if path.is_dir() else [path]
        yield from (file for file in inside if not file.is_dir())


def _named(contents: Contents, stem: str) -> Contents:
    """Return contents in which a value without a key has that of its file's name."""

    def named(values: Mapping[str, Any]) -> dict[str, Any]:
        return {key or stem: value for key, value in values.items()}

    return Contents(named(contents.numbers), named(contents.texts))


def _merged(contents: Mapping[Path, Contents], problems: dict[Path, str]) -> Contents:
    """Return the contents of several files as one."""
    owners = defaultdict[str, list[Path]](list)
    for file, one in contents.items():
        for key in (*one.numbers, *one.texts):
            owners[key].append(file)
    shared = {key for key, files in owners.items() if len(files) > 1}
    prefix = prefixes(file for file in contents if any(file in owners[key] for key in shared))
    merged = Contents(problems=problems)
    for file, one in contents.items():
        names = {key: key for key in (*one.numbers, *one.texts)}
        for key in names.keys() & shared:
            short = f"{prefix[file]}/{key}"
            names[key] = f"{file.as_posix()}/{key}" if short in owners else short
        merged.numbers |= {names[key]: value for key, value in one.numbers.items()}
        merged.texts |= {names[key]: value for key, value in one.texts.items()}
    return merged


def _n_common(paths: Sequence[Sequence[str]]) -> int:
    """Return how many first parts the paths have in common, leaving one of each."""
    shortest = min(map(len, paths), default=1) - 1
    differs = (i for i in range(shortest) if len({parts[i] for parts in paths}) > 1)
    return next(differs, max(shortest, 0))
