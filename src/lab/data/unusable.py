"""Errors about many files: one line for each file that cannot be used."""

from collections.abc import Sequence
from pathlib import Path

MAX_LINES = 20  # of a message

Problems = dict[Path, str]  # unusable files and folders, and why


def message(root: Path, remedy: str, problems: Problems) -> str:
    """List the problems below `root`, one per line, up to MAX_LINES."""
    lines = [f"{printable(str(path))}: {printable(why)}" for path, why in sorted(problems.items())]
    unusable = "unusable file or folder" if len(lines) == 1 else "unusable files or folders"
    return f"{root}: {len(lines):,} {unusable} {remedy}:{listed(lines)}"


def listed(lines: Sequence[str]) -> str:
    """Return the lines, each on a new line and indented, up to MAX_LINES."""
    text = "".join(f"\n  {line}" for line in lines[:MAX_LINES])
    if len(lines) > MAX_LINES:
        text += f"\n  and {len(lines) - MAX_LINES:,} more"
    return text


def printable(text: str) -> str:
    """Return `text` on one line, with other characters escaped."""
    letters = (letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)
    return "".join(letters)
