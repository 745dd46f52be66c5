"""What can go wrong that a user can mend, and how a stage says so: one line on stderr and an exit code.

Anything that is not a `RetraceError` is a defect of ours and keeps its traceback.
"""

import signal
import sys
from collections.abc import Callable
from types import FrameType


class RetraceError(Exception):
    """The user can mend this. The message names the thing, its value, what is allowed and what to do."""


class ParamsError(RetraceError):
    """params.yaml does not say what an experiment needs."""


class FetchError(RetraceError):
    """No source gave a file with the pinned digest."""


class DataError(RetraceError):
    """A file that a stage reads is missing or not what it should be."""


class DivergedError(RetraceError):
    """Training reached a loss that is not a number."""


class Terminated(BaseException):
    """SIGTERM or SIGHUP arrived. Like KeyboardInterrupt it passes through `except Exception`."""


def _terminate(_signal: int, _frame: FrameType | None) -> None:
    raise Terminated


def run(main: Callable[[], None]) -> None:
    """The process ends as a shell expects: 0, 2 for a user's error, 130 for SIGINT, 143 for SIGTERM and SIGHUP."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _terminate)
    try:
        main()
    except RetraceError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(128 + signal.SIGINT)
    except Terminated:
        print("terminated", file=sys.stderr)
        sys.exit(128 + signal.SIGTERM)
