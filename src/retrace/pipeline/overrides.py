"""Convert parameters for `dvc exp run -S key=value`: dotted keys, and values in Hydra's grammar."""

import re
from collections.abc import Mapping
from typing import Any

from retrace import settings
from retrace.errors import ParamsError

# A word that means the same to the shell, to Hydra's grammar and to YAML.
WORD = re.compile(r"[A-Za-z_./][\w./+-]*", re.ASCII)
# Hydra does not read these as text, in upper or lower case.
NOT_WORDS = {"true", "false", "null", "nan", "inf"}

Flat = dict[str, Any]  # models.cnn.hidden -> 128


def word(key: str, value: object) -> str:
    """Return `value` in Hydra's grammar, without characters that are special to a shell.

    Raises ParamsError if it would need quotes, which a shell does not remove from what `$(...)`
    prints.
    """
    if not _is_plain(value):
        problem = f"{key} cannot be set to {value!r} with -S, because the value needs quotes"
        raise ParamsError(f"{settings.PARAMS}: {problem}; edit the file instead")
    return literal(value)


def literal(value: object) -> str:
    """Return `value` in Hydra's grammar, in double quotes if it is text but not a plain word."""
    if isinstance(value, list):
        return f"[{','.join(map(literal, value))}]"
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if not isinstance(value, str) or _is_plain(value):
        return str(value)
    # Hydra reads a backslash as an escape only before a quote.
    escaped = re.sub(r'(\\*)("|$)', _escape, value)
    return f'"{escaped}"'


def flatten(values: Mapping[str, Any], prefix: str = "", *, keep_empty: bool = False) -> Flat:
    """Return each value by its dotted key; an empty table is dropped, unless `keep_empty`."""
    flat: Flat = {}
    for key, value in values.items():
        if isinstance(value, dict) and (value or not keep_empty):
            flat |= flatten(value, f"{prefix}{key}.", keep_empty=keep_empty)
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def nest(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Return values by dotted keys as nested tables."""
    values: dict[str, Any] = {}
    for key, value in flat.items():
        *tables, last = key.split(".")
        table = values
        for name in tables:
            table = table.setdefault(name, {})
        table[last] = value
    return values


def _is_plain(value: object) -> bool:
    if isinstance(value, list):
        return all(map(_is_plain, value))
    if not isinstance(value, str):
        return value is None or isinstance(value, bool | int | float)
    is_word = WORD.fullmatch(value) is not None and value.lower() not in NOT_WORDS
    return is_word and not _is_number(value)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _escape(match: re.Match[str]) -> str:
    backslashes, quote = match.groups()
    return backslashes * 2 + ('\\"' if quote else "")
