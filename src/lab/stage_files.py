"""Files that stages write for later ones. The error for a damaged file names its stage."""

import csv
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import safetensors
import safetensors.numpy

from retrace.errors import DataError
from retrace.system import files

Table = list[dict[str, float]]


Content = TypeVar("Content")


def save_table(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write a CSV file with a column for each key of the first row."""
    rows = list(rows)
    with (
        files.atomic(path) as unfinished,
        unfinished.open("w", newline="", encoding="utf-8") as file,
    ):
        writer = csv.DictWriter(file, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def read_table(path: Path) -> Table:
    """Return the rows of a CSV file of numbers. Raises ValueError if there are none."""
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        rows = [{name: float(value) for name, value in row.items()} for row in reader]
    if not rows:
        raise ValueError("it has no rows")
    return rows


def save_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write named arrays as safetensors."""
    with files.atomic(path) as unfinished:
        contiguous = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
        safetensors.numpy.save_file(contiguous, unfinished)


def load(path: Path, stage: str, read: Callable[[Path], Content]) -> Content:
    """Read a file. Raises DataError, which names the stage that writes it, if that fails."""
    try:
        return read(path)
    except (OSError, ValueError, TypeError, LookupError, safetensors.SafetensorError) as error:
        raise DataError(f"{path}: {error}; `dvc repro {stage}` writes it") from None
