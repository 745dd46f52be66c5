"""Write docs/settings.md from the settings' dataclasses and their comments.

    python docs/settings_reference.py

What a setting means is the comment at the end of its line, or the one above it; of a table, also
the docstring of its class.
"""

import ast
import inspect
import json
import re
import textwrap
from collections.abc import Iterator
from dataclasses import MISSING, Field, fields, is_dataclass
from pathlib import Path
from typing import Any, get_type_hints

from retrace import settings
from retrace.settings import Settings

PAGE = Path(__file__).with_name("settings.md")
TOP = """\
# Settings

None is needed: the defaults suit any repository. They are in `[tool.retrace]` of pyproject.toml,
or at the top level of retrace.toml, in the folder with `.dvc/`; retrace.toml comes first. `retrace
init` prints those that your repository may need, and `retrace init --write` writes them. Each
mistake is one line with the key, the value and what is allowed.

This page is made from `src/retrace/settings.py` by `python docs/settings_reference.py`.

| setting | type | default | meaning |
|---|---|---|---|
"""
EXAMPLE = """
## Example

"""


def page() -> str:
    """Return the page, with a row for each setting."""
    lines = (inspect.getdoc(settings) or "").split("Example:\n\n")[1].splitlines()
    example = "\n".join(f"    {line.strip()}".rstrip() for line in lines)
    return TOP + "".join(rows(Settings)) + EXAMPLE + example + "\n"


def rows(kind: type[Any], prefix: str = "") -> Iterator[str]:
    """Yield the rows of a table of settings, each table's own settings after it.

    Raises ValueError if a setting has no comment.
    """
    types = get_type_hints(kind)
    comments = _comments(kind)
    for field in fields(kind):
        inner = settings.inner(types[field.name])
        docstring = inspect.getdoc(inner) if is_dataclass(inner) else None
        meaning = comments[field.name] or " ".join((docstring or "").split()).rstrip(".")
        if not meaning:
            raise ValueError(f"{kind.__name__}.{field.name}: has no comment that says what it is")
        what = settings.describe(inner).removeprefix("a ").removeprefix("an ")
        cells = (f"`{prefix}{field.name}`", what, _default(field), meaning)
        yield f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |\n"
        if is_dataclass(inner):
            yield from rows(inner, f"{prefix}{field.name}.")  # pyright: ignore[reportArgumentType]


def _default(field: Field[Any]) -> str:
    """Return the default value as TOML has it, or that there is none."""
    value = field.default
    if field.default_factory is not MISSING:
        value = field.default_factory()
    if value is MISSING:
        return "needed in this table"
    if value is None or value in ((), [], {}):
        return "none"
    if is_dataclass(value):
        return "see below"
    return f"`{json.dumps(value)}`"


def _comments(kind: type[Any]) -> dict[str, str]:
    """Return the comment of each field: at the end of its line, else the lines above it."""
    lines = textwrap.dedent(inspect.getsource(kind)).splitlines()
    comments = {}
    for node in ast.walk(ast.parse("\n".join(lines))):
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            end = lines[(node.end_lineno or node.lineno) - 1][node.end_col_offset or 0 :]
            above = _above(lines[: node.lineno - 1])
            comments[node.target.id] = end.partition("# ")[2] or " ".join(above)
    return comments


def _above(lines: list[str]) -> list[str]:
    """Return the comment that ends these lines."""
    comment: list[str] = []
    for line in reversed(lines):
        match = re.fullmatch(r"\s*# ?(.*)", line)
        if match is None:
            break
        comment.insert(0, match[1])
    return comment


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
