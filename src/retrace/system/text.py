"""Text for messages, and the shell commands in them."""

import shlex
from pathlib import Path


def count(n: int, singular: str, plural: str = "") -> str:
    """Return a number with its noun: `1 file`, `2 files`. `plural` is needed if it is irregular."""
    return f"{n} {singular if n == 1 else plural or f'{singular}s'}"


def command(*words: str | Path) -> str:
    """Return a command that a shell reads as these words; no path among them is an option."""
    return shlex.join(
        f"./{word}" if isinstance(word, Path) and str(word).startswith("-") else str(word)
        for word in words
    )
