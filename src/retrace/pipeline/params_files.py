"""Read params files in DVC's formats: YAML 1.2, TOML, JSON, and assignments in Python."""

import ast
import json
import tomllib
import warnings
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from retrace.errors import ParamsError
from retrace.pipeline import overrides, yaml_files

Values = dict[str, Any]

PATTERN = set("*?[")  # a key with one of these may match several values


def read(path: Path) -> Values:
    """Read the values of a params file, in the format that its suffix names.

    Raises ParamsError if there is no such file, or if it is not a table.
    """
    try:
        return parse(path.read_bytes(), path)
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
        raise ParamsError(f"{path}: {error.strerror}; dvc.yaml names this params file") from None


def parse(content: bytes, path: Path) -> Values:
    """Parse the content of the params file `path`. Raises ParamsError if it is not a table."""
    name, parser = PARSERS.get(path.suffix.lower(), ("YAML", _yaml))
    try:
        values = parser(content.decode()) or {}
    except (*yaml_files.INVALID, SyntaxError, MemoryError) as error:
        raise ParamsError(f"{path}: not {name}: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise ParamsError(f"{path}: should be a table of keys and values")
    return values


def select(values: Mapping[str, Any], keys: Iterable[str]) -> overrides.Flat:
    """Return the values at these keys, flat, as DVC writes them to dvc.lock; all without a key.

    A key may name a table, and may have wildcards if only one value matches: `models.*.width`.
    DVC writes such a value with the wildcards in its key. Raises ParamsError.
    """
    keys = list(keys)
    selected = {key: _value(values, key) for key in keys} if keys else dict(values)
    return overrides.flatten(_plain(selected), keep_empty=True)


def _value(values: Mapping[str, Any], key: str) -> Any:
    """Return the value that DVC finds for a key."""
    value: Any = values
    if not PATTERN & set(key):
        with suppress(KeyError, TypeError):
            for name in key.split("."):
                value = value[name]
            return value
    import dpath  # takes time to import
    from dpath.exceptions import InvalidGlob, InvalidKeyName

    try:
        return dpath.get(dict(values), key, separator=".")
    except KeyError:
        raise ParamsError(f"{key}: no parameter has this name") from None
    except (ValueError, InvalidGlob, InvalidKeyName):
        raise ParamsError(f"{key}: several parameters match; DVC allows only one") from None


def _plain(value: Any) -> Any:
    """Return a value with Python's tuples as lists, as they are in dvc.lock."""
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, list | tuple) else value


def _yaml(text: str) -> Any:
    value = yaml_files.parse_as_dvc(text)
    yaml_files.check_size(value)
    return value


def _python(text: str) -> Values:
    """Return the assignments of literals, without running the code."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the parser, about the user's code
        return _assigned(ast.parse(text).body)


def _assigned(body: Iterable[ast.stmt], *, to_self: bool = False) -> Values:
    """Return the literals that statements assign; those of a class and its `__init__` as a table.

    With `to_self`, only attributes of `self`.
    """
    values: Values = {}
    for statement in body:
        match statement:
            case ast.Assign([target], value) | ast.AnnAssign(target, _, ast.expr() as value):
                if name := _name(target, to_self=to_self):
                    with suppress(ValueError):  # not a literal
                        values[name] = ast.literal_eval(value)
            case ast.ClassDef(name=name, body=inner):
                values[name] = _assigned(inner)
            case ast.FunctionDef(name="__init__", body=inner):
                values |= _assigned(inner, to_self=True)
    return values


def _name(target: ast.expr, *, to_self: bool) -> str | None:
    match target:
        case ast.Attribute(ast.Name("self"), name):
            return name
        case ast.Name(name) if not to_self:
            return name
    return None


PARSERS: dict[str, tuple[str, Callable[[str], Any]]] = {
    ".toml": ("TOML", tomllib.loads),
    ".json": ("JSON", json.loads),
    ".py": ("Python", _python),
}
