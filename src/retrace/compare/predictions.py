"""What experiments predicted for the same samples, and the paired test of two of them.

Predictions are numbers if all values are numbers and one of them is not whole; else they are
classes.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePath

import numpy as np

from retrace.compare import significance
from retrace.compare.significance import Paired, PairedErrors
from retrace.pipeline import plot_files
from retrace.pipeline.definition import Pipeline
from retrace.provenance.resolve import NamedExperiment, Resolver
from retrace.settings import PredictionsTable, Settings

UNDECLARED = (
    "no plot of dvc.yaml has `template: confusion`, and the setting predictions names no table"
)


@dataclass(frozen=True)
class Predicted:
    """Actual and predicted values of the samples, in the order of the table or of their ids."""

    actual: Sequence[str]
    predicted: Sequence[str]
    ids: Sequence[str] = ()


def declared(pipeline: Pipeline, settings: Settings) -> PredictionsTable | None:
    """Return the table with the predictions: that of the settings, else that of a plot.

    Of several plots, that of the test split counts, else the last one.
    """
    plots = pipeline.predictions
    test = [table for table in plots if "test" in PurePath(table.path).as_posix().lower()]
    return settings.predictions or next(iter([*test, *reversed(plots)]), None)


def read(names: Resolver, named: NamedExperiment, table: PredictionsTable) -> Predicted | str:
    """Return an experiment's predictions, or why there are none."""
    parse = partial(_parse, table=table)
    missing = "are neither in DVC's cache nor in MLflow; run it again"
    try:
        predicted = names.read_output(named, Path(table.path), parse)
    except ValueError as error:
        return f"{table.path} of {named.name} {error}"
    return predicted or f"the predictions of {named.name} {missing}"


def mismatch(ours: Predicted, theirs: Predicted, table: PredictionsTable) -> str:
    """Return why the rows of two tables are not the same samples, or an empty string."""
    differ = "their predictions are for different samples"
    if ours.ids != theirs.ids:
        return f"{differ}: column {table.id!r} of {table.path} differs"
    if _comparable(ours.actual) != _comparable(theirs.actual):
        return f"{differ}: column {table.actual!r} of {table.path} differs"
    return ""


def test(first: Predicted, second: Predicted) -> Paired | PairedErrors:
    """Test whether the second experiment predicts the same samples better than the first."""
    columns = (first.actual, first.predicted, second.predicted)
    numbers = [_numbers(column) for column in columns]
    if any(values is None for values in numbers):
        actual, ours, theirs = (np.array(list(column), dtype=object) for column in columns)
        return significance.mcnemar(ours == actual, theirs == actual)
    actual, ours, theirs = (np.array(values, dtype=np.float64) for values in numbers)
    if all((values == np.floor(values)).all() for values in (actual, ours, theirs)):
        return significance.mcnemar(ours == actual, theirs == actual)
    return significance.sign_flip(np.abs(ours - actual), np.abs(theirs - actual))


def _parse(file: Path, table: PredictionsTable) -> Predicted:
    """Read predictions. Raises ValueError, with the end of a sentence about the file."""
    try:
        rows = plot_files.parse(file.read_bytes(), Path(table.path).suffix)
    except ValueError as error:
        raise ValueError(f"cannot be read: {' '.join(str(error).split())}") from None
    if not rows:
        raise ValueError("has no rows")
    columns = [table.actual, table.predicted]
    if table.id:
        columns.append(table.id)
        rows.sort(key=lambda row: str(row.get(columns[-1])))
    for column in columns:
        if any(row.get(column) in (None, "") for row in rows):
            known = ", ".join(map(str, filter(None, rows[0])))
            state = "has empty cells" if column in rows[0] else f"is missing; it has {known}"
            raise ValueError(f"cannot be used: its column {column!r} {state}")
    actual, predicted, *ids = ([str(row[column]) for row in rows] for column in columns)
    if ids and len(set(ids[0])) < len(ids[0]):
        raise ValueError(f"cannot be used: its column {table.id!r} has the same id twice")
    return Predicted(actual, predicted, *ids)


def _comparable(column: Sequence[str]) -> Sequence[str] | Sequence[float]:
    """Return numbers as such, because 1 and 1.0 are equal."""
    return _numbers(column) or column


def _numbers(column: Sequence[str]) -> list[float] | None:
    """Return the values as numbers; None unless all are finite ones."""
    try:
        values = [float(text) for text in column]
    except ValueError:
        return None
    return values if all(map(math.isfinite, values)) else None
