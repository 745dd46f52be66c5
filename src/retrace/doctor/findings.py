"""What a check finds."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Literal

Level = Literal["ok", "warning", "problem"]

REBUILD = "rm -f .venv/.complete && make env"  # the environment anew, from requirements.txt


@dataclass(frozen=True)
class Finding:
    """What is in order, may be intended (a warning), or is wrong (a problem).

    `repair` is the shell command that resolves it, in the repository's root, if there is one.
    """

    level: Level
    what: str
    repair: str | None = None
    check: str = ""

    def named(self, check: str) -> "Finding":
        """Return the finding with the name of its check."""
        return replace(self, check=check)


Check = Callable[[], Iterator[Finding]]


def ok(what: str) -> Finding:
    return Finding("ok", what)


def warning(what: str, repair: str | None = None) -> Finding:
    return Finding("warning", what, repair)


def problem(what: str, repair: str | None = None) -> Finding:
    return Finding("problem", what, repair)


def some(names: list[str], most: int = 3) -> str:
    """Join names for a sentence, at most the first few."""
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")
