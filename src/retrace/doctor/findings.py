"""What a check finds."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Literal

from retrace.system import interpreter

Level = Literal["ok", "warning", "problem"]


@dataclass(frozen=True)
class Finding:
    """A result of a check: ok, something that may be intended (a warning), or a problem.

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


def rebuild() -> str | None:
    """Return the command that installs the environment again, if this repository has one."""
    return f"rm -f {interpreter.COMPLETE} && make env" if interpreter.has_target() else None


def some(names: list[str], most: int = 3) -> str:
    """Join the first `most` names for a sentence, and count the others."""
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")
