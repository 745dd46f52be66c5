"""Read params.yaml, with the parser that DVC uses, and files like it."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from retrace.errors import ParamsError
from retrace.pipeline import yaml_files
from retrace.settings import PARAMS

Values = dict[str, Any]


def read(path: Path = PARAMS) -> Values:
    """Read the values of a parameter file. Raises ParamsError."""
    try:
        return parse(path.read_bytes(), path)
    except FileNotFoundError:
        message = f"{path}: no such file; run this in the repository's root"
        raise ParamsError(message) from None


def parse(content: bytes, path: Path = PARAMS) -> Values:
    """Parse the content of the file `path`. Raises ParamsError if it is not a table."""
    try:
        values = load(content)
    except ValueError as error:
        raise ParamsError(f"{path}: not YAML: {error}") from None
    if not isinstance(values, dict):
        raise ParamsError(f"{path}: should be a table of keys and values")
    for key, value in values.items():
        if problem := _problem(key, value):
            raise ParamsError(f"{path}: {key} {problem}")
    return values


def load(content: bytes) -> Any:
    """Parse YAML. Raises ValueError with a message in one line."""
    try:
        return yaml_files.parse_as_dvc(content.decode())
    except (yaml_files.YAMLError, ValueError, RecursionError) as error:
        raise ValueError(" ".join(str(error).split())) from None


def check(values: Values, changed: Iterable[str] = ()) -> None:
    """Check the values with all installed checks: the entry points `retrace.params`.

    `changed` are keys whose tables are checked in depth. Raises ParamsError.
    """
    from retrace import plugins  # takes time to import

    for function in plugins.load("params").values():
        function(values, list(changed))


def shorten(value: object) -> str:
    """Return `value` for a message, in at most 60 characters."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _problem(key: object, value: object) -> str | None:
    """Return what is wrong with a value that YAML allows: an alias, or a key that is not a string.

    A few lines with aliases can expand to billions of values.
    """
    seen: set[int] = set()
    left: list[Any] = [{key: value}]
    while left:
        node = left.pop()
        if id(node) in seen:
            return (
                "contains a YAML alias (*name), which is not supported; repeat the values instead"
            )
        seen.add(id(node))
        if isinstance(node, dict):
            for name in node:
                if not isinstance(name, str):
                    should = "every key should be a string; put it in quotes"
                    return f"contains the key {shorten(name)}; {should}"
        children = node.values() if isinstance(node, dict) else node
        left += [child for child in children if isinstance(child, dict | list)]
    return None
