"""Tables on a terminal or in Markdown, of text that anybody may have written: nothing in it is markup, nor moves the
cursor.
"""

import re
import sys
from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

MARKUP = re.compile(r"[\\`*_~\[\]<>|&#@]")


def table(top: Sequence[str], rows: Iterable[Sequence[str]], numbers: Iterable[int] = ()) -> Table:
    """The rows below their heading; the columns at `numbers` are right-aligned."""
    shown = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for at, name in enumerate(top):
        shown.add_column(_cell(name), justify="right" if at in set(numbers) else "left", overflow="fold")
    for row in rows:
        shown.add_row(*map(_cell, row))
    return shown


def markdown(top: Sequence[str], rows: Iterable[Sequence[str]], numbers: Iterable[int] = ()) -> str:
    """Return the same table as Markdown, in which no text of a cell is markup."""
    aligned = ["---:" if at in set(numbers) else "---" for at in range(len(top))]
    escaped = [[escape(cell) for cell in cells] for cells in (top, *rows)]
    lines = [escaped[0], aligned, *escaped[1:]]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def escape(text: str) -> str:
    """Return the text in one line, with all that Markdown or HTML could take for markup escaped."""
    return MARKUP.sub(r"\\\g<0>", plain(text))


def show(table: Table) -> None:
    """Print it; in a pipe no line is broken."""
    console = Console(width=None if sys.stdout.isatty() else 10_000, markup=False, emoji=False, highlight=False)
    with console.capture() as captured:  # and printed by Python, for the end of a pipe is answered elsewhere
        console.print(table)
    print("\n".join(line.rstrip() for line in captured.get().splitlines()))


def plain(text: str) -> str:
    """In one line, with what can't be printed, such as a terminal's commands, as its code."""
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)


def _cell(text: str) -> Text:
    return Text(plain(text))
