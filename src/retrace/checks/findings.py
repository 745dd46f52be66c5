"""What a check says."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Literal

Level = Literal["ok", "warning", "problem"]

REBUILD = "rm -f .venv/.complete && make env"  # the environment from requirements.txt, whatever is there


@dataclass(frozen=True)
class Finding:
    """Something in order, something that may be meant or costs little, or something that is wrong; and the command for
    the shell, in the repository's folder, after which it is not found again, if there is one.
    """

    level: Level
    what: str
    repair: str | None = None
    check: str = ""

    def of(self, check: str) -> "Finding":
        return replace(self, check=check)


Check = Callable[[], Iterator[Finding]]


def ok(what: str) -> Finding:
    return Finding("ok", what)


def warning(what: str, repair: str | None = None) -> Finding:
    return Finding("warning", what, repair)


def problem(what: str, repair: str | None = None) -> Finding:
    return Finding("problem", what, repair)


def some(names: list[str], most: int = 3) -> str:
    """Names in a sentence, the first few of many."""
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")
