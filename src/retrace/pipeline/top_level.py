"""Metrics, plots and artifacts that a dvc.yaml declares, once each `${...}` is replaced."""

import posixpath
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from retrace.pipeline.definition import Artifact, qualified
from retrace.settings import PredictionsTable

CONFUSION = "confusion"  # DVC's template of a confusion matrix


def metrics_paths(file: str, entries: Iterable[str]) -> list[str]:
    """Return the metrics files that a dvc.yaml lists."""
    return [_path(file, entry) for entry in entries]


def plots_paths(file: str, entries: Iterable[str | Mapping[str, Any]]) -> list[str]:
    """Return the files and folders that a dvc.yaml's plots are drawn from.

    An entry is a path, or has an id with properties. If `y` or `x` have files, the id is a title.
    """
    paths: list[str] = []
    for entry in entries:
        if isinstance(entry, str):
            paths.append(entry)
        else:
            ident, properties = next(iter(entry.items()))
            paths += list(_files_of_axes(properties or {})) or [ident]
    return list(dict.fromkeys(_path(file, path) for path in paths))


def confusion_tables(
    file: str, entries: Iterable[str | Mapping[str, Any]]
) -> list[PredictionsTable]:
    """Return the tables of plots with `template: confusion`: `x` is actual, `y` predicted."""
    tables: list[PredictionsTable] = []
    for entry in entries:
        for ident, properties in entry.items() if isinstance(entry, Mapping) else ():
            if not isinstance(properties, Mapping) or properties.get("template") != CONFUSION:
                continue
            y = properties.get("y")
            for path, columns in (y if isinstance(y, Mapping) else {ident: y}).items():
                x = properties.get("x")
                actual = x.get(path, next(iter(x.values()), None)) if isinstance(x, Mapping) else x
                pair = (_only(actual), _only(columns))
                if all(pair):
                    tables.append(PredictionsTable(_path(file, path), *map(str, pair)))
    return tables


def declared_artifacts(file: str, entries: Mapping[str, Mapping[str, Any]]) -> list[Artifact]:
    """Return the artifacts of a dvc.yaml."""
    return [
        Artifact(qualified(file, name), _path(file, entry["path"]), entry.get("type"))
        for name, entry in entries.items()
    ]


def _files_of_axes(properties: Mapping[str, Any]) -> Iterator[str]:
    """Yield the files of the axes, if DVC takes them from there: if `y` has files."""
    if isinstance(properties.get("y"), Mapping):
        for axis in ("y", "x"):
            if isinstance(properties.get(axis), Mapping):
                yield from properties[axis]


def _only(column: Any) -> str | None:
    """Return a column that stands alone, or alone in a list."""
    columns = column if isinstance(column, list) else [column]
    return columns[0] if len(columns) == 1 else None


def _path(file: str, path: str) -> str:
    """Return a path that is relative to a dvc.yaml's folder, relative to the root."""
    return posixpath.normpath(posixpath.join(posixpath.dirname(file), path))
