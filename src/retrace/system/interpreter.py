"""Which Python runs: the project's environment, or another one, which may lack packages."""

from __future__ import annotations  # another one may also be older than the project allows

import sys
from pathlib import Path
from types import TracebackType

ENVIRONMENT = Path(".venv")
COMPLETE = ENVIRONMENT / ".complete"  # what a Makefile writes that has a target for it
OLDEST = (3, 11)
ACTIVATE = f". {ENVIRONMENT}/bin/activate"


def has_target() -> bool:
    """Return whether `make env` creates the environment here."""
    makefile = Path("Makefile")
    return makefile.is_file() and str(COMPLETE) in makefile.read_text("utf-8", "replace")


def activation() -> str | None:
    """Return the command that activates the project's environment, or creates it; None if none."""
    if (ENVIRONMENT / "bin/python").exists():
        return ACTIVATE
    return f"make env && {ACTIVATE}" if has_target() else None


def explain(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Print an uncaught exception: in one line if it is due to the wrong Python."""
    is_import = isinstance(error, ModuleNotFoundError) or sys.version_info[:2] < OLDEST
    command = activation() if is_import and not _is_own() else None
    if command is None:
        sys.__excepthook__(kind, error, trace)
        return
    state = f"{sys.executable} is not the Python of this project ({error})"
    print(f"{state}; type `{command}`, then the command again", file=sys.stderr)
    raise SystemExit(2)


def _is_own() -> bool:
    """Return whether this is the project's environment, or any, if the project has none here."""
    if ENVIRONMENT.exists():
        return Path(sys.prefix).resolve() == ENVIRONMENT.resolve()
    return sys.prefix != sys.base_prefix
