"""What a plain dvc.yaml and a `.dvc` file may contain: part of DVC's schema, but as strict."""

from collections.abc import Mapping
from typing import Any

Schema = Mapping[str, type | tuple[type, ...]]  # the keys of a table, and the types of their values

ANNOTATION: Schema = {"desc": str, "type": str, "labels": list, "meta": object}
DOCUMENT: Schema = {
    "stages": dict,
    "metrics": list,
    "plots": list,
    "params": list,
    "artifacts": dict,
}
STAGE: Schema = {
    "cmd": (str, list),
    "deps": list,
    "params": list,
    **dict.fromkeys(("outs", "metrics", "plots"), list),
    "frozen": bool,
    "always_changed": bool,
    "desc": str,
    "meta": object,
}
OUT: Schema = {**ANNOTATION, "cache": bool, "persist": bool, "remote": str, "push": bool}
PLOT: Schema = {
    **OUT,
    **dict.fromkeys(("template", "x", "y", "x_label", "y_label", "title"), str),
    "header": bool,
}
PROPERTIES: Schema = {  # of a plot at the top level
    **dict.fromkeys(("x_label", "y_label", "title", "template"), str),
    "x": (str, dict),
    "y": (str, list, dict),
}
ARTIFACT: Schema = {**ANNOTATION, "path": str}
DVC_FILE: Schema = {
    **{key: STAGE[key] for key in ("deps", "outs", "frozen", "always_changed", "desc", "meta")},
    "md5": str,
    "wdir": str,
}
DATA: Schema = {
    **OUT,
    **dict.fromkeys(("path", "md5", "hash"), str),
    **dict.fromkeys(("size", "nfiles"), int),
    "isexec": bool,
}


class NotPlainError(Exception):
    """The pipeline is not plain, or not valid."""


def require(condition: object) -> None:
    """Raise NotPlainError unless the condition is true."""
    if not condition:
        raise NotPlainError


def require_table(table: Any, schema: Schema, *required: str) -> None:
    """Require a table with no other keys, and with values of these types."""
    require(isinstance(table, dict) and table.keys() <= schema.keys() and {*required} <= {*table})
    for key, value in table.items():
        require(isinstance(value, schema[key]))
        if key == "labels":
            require_texts(value)


def require_texts(entries: Any) -> list[str]:
    """Require a list of texts, and return it."""
    require(isinstance(entries, list) and all(isinstance(entry, str) for entry in entries))
    return entries


def require_plots(entries: list[Any]) -> list[Any]:
    """Return the plots of the top level, checked."""
    for entry in entries:
        require(isinstance(entry, str | dict))
        if isinstance(entry, dict):
            require(len(entry) == 1)
            for properties in entry.values():
                require_table({} if properties is None else properties, PROPERTIES)
                _check_axes(properties or {})
    return entries


def _check_axes(properties: Mapping[str, Any]) -> None:
    """Require axes that are columns, or that have the columns of each file."""
    for axis in ("x", "y"):
        value = properties.get(axis, [])
        for file, columns in value.items() if isinstance(value, dict) else [(axis, value)]:
            require_texts([file])
            require_texts([columns] if isinstance(columns, str) else columns)
