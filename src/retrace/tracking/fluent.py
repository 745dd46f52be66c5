"""Functions for code without a `with`: they log to the run of the stage that DVC runs.

The first call opens it, as `retrace.stage` does, and the end of the program ends it. Python tells
of an uncaught exception and of `sys.exit`, but not of `raise SystemExit(1)`.
"""

import atexit
import sys
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from threading import RLock
from types import TracebackType
from typing import Any, NoReturn, SupportsFloat

from retrace.errors import RetraceError
from retrace.tracking import stage
from retrace.tracking.run import AnyPath, Run

_opening = RLock()


def log(metrics: Mapping[str, SupportsFloat], step: int = 0, timestamp: int | None = None) -> None:
    """Log metrics of a step to the stage at hand: see `Run.log`."""
    _run().log(metrics, step, timestamp)


def summary(values: Mapping[str, SupportsFloat]) -> None:
    """Log the metrics by which experiments are compared: see `Run.summary`."""
    _run().summary(values)


def set_tags(tags: Mapping[str, object] | None = None, /, **more: object) -> None:
    """Set tags of the stage at hand: see `Run.set_tags`."""
    _run().set_tags(tags, **more)


def log_artifact(path: AnyPath, *, summary: bool = False) -> None:
    """Log a file, or all files in a folder: see `Run.log_artifact`."""
    _run().log_artifact(path, summary=summary)


def log_table(name: str, rows: Iterable[Any]) -> None:
    """Log rows as a CSV or TSV file: see `Run.log_table`."""
    _run().log_table(name, rows)


def log_model(path: AnyPath) -> None:
    """Log the model that the stage made: see `Run.log_model`."""
    _run().log_model(path)


def _run() -> Run:
    if not stage.entered:
        with _opening:
            if not stage.entered:
                _open()
    return stage.entered[-1]


def _open() -> None:
    """Enter the stage until the program ends."""
    stack = ExitStack()
    stack.enter_context(stage.stage())
    ends: list[BaseException] = []
    show = sys.excepthook
    leave = sys.exit

    def uncaught(
        kind: type[BaseException], error: BaseException, trace: TracebackType | None
    ) -> None:
        ends.append(error)
        show(kind, error, trace)

    def leaving(code: str | int | None = None, /) -> NoReturn:
        ends.append(SystemExit(code))
        leave(code)

    sys.excepthook = uncaught
    sys.exit = leaving
    atexit.register(lambda: _close(stack, ends[-1] if ends else None))


def _close(stack: ExitStack, error: BaseException | None) -> None:
    """Leave the stage as the program ends: by an uncaught exception, or without one."""
    try:
        stack.__exit__(type(error) if error else None, error, None)
    except (RetraceError, OSError) as failure:
        reason = " ".join(str(failure).split())
        print(f"warning: the end of the stage is not tracked: {reason}", file=sys.stderr)
