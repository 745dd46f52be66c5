"""The top level of a dvc.yaml: metrics, plots and artifacts, once each `${...}` is replaced."""

import posixpath
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from retrace.pipeline.definition import Artifact, qualified


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


def _path(file: str, path: str) -> str:
    """Return a path that is relative to a dvc.yaml's folder, relative to the root."""
    return posixpath.normpath(posixpath.join(posixpath.dirname(file), path))
