"""Metrics by step or epoch, of experiments side by side.

They are read from the tables that dvc.yaml names as plots and that have such a column; if there is
none, from MLflow. All have the x-axis of the first such plot.
"""

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path, PurePath
from typing import Any

from retrace.pipeline import metrics, plot_files
from retrace.pipeline.definition import Pipeline
from retrace.provenance.resolve import NamedExperiment, Resolver

History = Sequence[Mapping[str, float]]  # a row for each step or epoch


def histories(
    names: Resolver, pipeline: Pipeline, experiments: Sequence[NamedExperiment]
) -> list[History]:
    """Return the history of each experiment, empty if it has none."""
    tables = [dict(_tables(names, pipeline, each)) for each in experiments]
    firsts = (rows[0] for own in tables for rows in own.values())
    counter = next((metrics.counters(row)[0] for row in firsts), None)
    if counter is None:
        return [names.history(each) for each in experiments]
    return [_joined(own, counter) for own in tables]


def counter_of(history: History) -> str | None:
    """Return the column with the steps or epochs."""
    return next(iter(metrics.counters(history[0])), None) if history else None


def _tables(
    names: Resolver, pipeline: Pipeline, named: NamedExperiment
) -> Iterator[tuple[str, list[dict[str, float]]]]:
    """Yield the tables of plots that have a column of steps or epochs, by path."""
    outs = [out.path for stage in pipeline.stages.values() for out in stage.outs]
    own = {
        out.path for stage in pipeline.stages.values() for out in stage.outs if out.kind == "plot"
    }
    for path in dict.fromkeys([*pipeline.plots, *filter(own.__contains__, outs)]):
        suffix = PurePath(path).suffix.lower()
        if suffix in plot_files.SUFFIXES:
            try:
                rows = names.read_output(named, Path(path), partial(_read, suffix=suffix))
            except ValueError:
                continue
            if rows and metrics.counters(rows[0]):
                yield path, rows


def _read(file: Path, suffix: str) -> list[dict[str, float]]:
    """Return the numbers of each row; columns with texts are left out."""
    rows = plot_files.parse(file.read_bytes(), suffix)
    numbers = [{str(key): _number(value) for key, value in row.items()} for row in rows]
    return [{key: value for key, value in row.items() if value is not None} for row in numbers]


def _number(value: Any) -> float | None:
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


def _joined(tables: Mapping[str, list[dict[str, float]]], counter: str) -> History:
    """Join the tables with this counter on it; a column that two have gets their path's name."""
    own = {path: rows for path, rows in tables.items() if counter in rows[0]}
    counts = Counter(column for rows in own.values() for column in rows[0])
    shared = {column for column, n in counts.items() if n > 1} - {counter}
    alike = (PurePath(path) for path, rows in own.items() if not shared.isdisjoint(rows[0]))
    prefix = metrics.prefixes(alike)
    joined: dict[float, dict[str, float]] = {}
    for path, rows in own.items():
        for row in rows:
            step = row.get(counter, math.nan)
            if math.isfinite(step):
                at = joined.setdefault(step, {counter: step})
                for column, value in row.items():
                    name = f"{prefix[PurePath(path)]}/{column}" if column in shared else column
                    at[name] = value
    return [joined[step] for step in sorted(joined)]
