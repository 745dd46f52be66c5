"""Tables on a terminal. Their text is untrusted: no markup, no control characters."""

import re
import sys
from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

MARKUP = re.compile(r"[\\`*_~\[\]<>|&#@]")


def table(top: Sequence[str], rows: Iterable[Sequence[str]], numbers: Iterable[int] = ()) -> Table:
    """Return a table; the columns at the indices `numbers` are right-aligned."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    right = set(numbers)
    for index, name in enumerate(top):
        justify = "right" if index in right else "left"
        table.add_column(_cell(name), justify=justify, overflow="fold")
    for row in rows:
        table.add_row(*map(_cell, row))
    return table


def markdown(top: Sequence[str], rows: Iterable[Sequence[str]], numbers: Iterable[int] = ()) -> str:
    """Return the same table as Markdown, with the text of the cells escaped."""
    aligned = ["---:" if at in set(numbers) else "---" for at in range(len(top))]
    escaped = [[escape(cell) for cell in cells] for cells in (top, *rows)]
    lines = [escaped[0], aligned, *escaped[1:]]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def escape(text: str) -> str:
    """Return the text in one line, with the characters of Markdown and HTML markup escaped."""
    return MARKUP.sub(r"\\\g<0>", plain(text))


def show(table: Table) -> None:
    """Print a table; in a pipe no line is wrapped."""
    width = None if sys.stdout.isatty() else 10_000
    console = Console(width=width, markup=False, emoji=False, highlight=False)
    with console.capture() as captured:  # Python prints it, so that a closed pipe ends in cli.main
        console.print(table)
    print("\n".join(line.rstrip() for line in captured.get().splitlines()))


def plain(text: str) -> str:
    """Return the text in one line, with unprintable characters escaped."""
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode()
        for character in text
    )


def _cell(text: str) -> Text:
    return Text(plain(text))
