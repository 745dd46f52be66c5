"""Errors that a user can fix, and signals: one line on stderr and an exit code.

    Exception
    └── RetraceError          exit code 2, no traceback
        ├── ParamsError       params.yaml, or another parameter
        └── DataError         a file that a stage reads or writes
    BaseException
    ├── KeyboardInterrupt     SIGINT: exit code 130
    └── Terminated            SIGTERM, SIGHUP: exit code 143

Errors of a full disk, or of a missing permission, are one line with exit code 2 as well. Any other
exception is a bug and keeps its traceback.
"""

import atexit
import errno
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Self

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # the disk or a quota is full
LITTLE = 10**6  # bytes that are free on a disk that is as good as full
TEMPORARY_REPAIR = "set TMPDIR to a folder with free space, such as `export TMPDIR=/var/tmp`"
CLOSED = (errno.EROFS, errno.EACCES, errno.EPERM)  # this user may not read or write a file


class RetraceError(Exception):
    """An error that the user can fix. The message says what is wrong and what to do."""


class ParamsError(RetraceError):
    """A parameter is missing, unknown or not allowed."""


class DataError(RetraceError):
    """A file is missing, damaged, or can't be written."""


class Terminated(BaseException):
    """SIGTERM or SIGHUP arrived. Like KeyboardInterrupt, `except Exception` does not catch it."""


# One Ctrl-C can send several signals: the terminal's, the process group's and DVC's. Within this
# time they count as one.
IMPATIENT_S = 2.0

_deferred: dict[int, float] | None = None  # when each signal that waits for `answer` arrived
_raised: dict[int, float] = {}  # when the exception of each signal was raised last


def run(main: Callable[[], None]) -> None:
    """Run `main` and exit: 0, 2 for a RetraceError, 130 for SIGINT, 143 for SIGTERM and SIGHUP."""
    listen()
    try:
        main()
    except (RetraceError, OSError) as error:
        line = one_line(error)
        if line is None:
            raise
        print(line, file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(128 + signal.SIGINT)
    except Terminated:
        print("terminated", file=sys.stderr)
        sys.exit(128 + signal.SIGTERM)

    atexit._run_exitfuncs()  # they may end the event log of a stage
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # without Python's clean-up, which takes a second with torch loaded


def one_line(error: Exception) -> str | None:
    """Return the line that a user reads about an error; None for a bug, which has a traceback."""
    if isinstance(error, RetraceError):
        return str(error)
    remedy = _disk_reason(error) if isinstance(error, OSError) else None
    return f"{remedy}, then run the command again" if remedy else None


def reason(error: Exception) -> str:
    """Return why something failed, with the file that an OSError names."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return str(error)


def _disk_reason(error: OSError) -> str | None:
    """Return what is wrong with a disk, and the remedy; None if the error is another one."""
    if error.errno == errno.ENOENT and "temporary directory" in str(error.strerror):
        return f"no folder for temporary files can be written; {TEMPORARY_REPAIR}"
    if error.errno not in FULL and not (error.filename and error.errno in CLOSED):
        return None
    temporary = temporary_folder()
    unknown = str(temporary) if is_full(temporary) else "the disk"
    name = os.fsdecode(error.filename) if error.filename else unknown
    remedy = "free some disk space" if error.errno in FULL else "make it readable and writable"
    if Path(name).is_relative_to(temporary):
        remedy += f", or {TEMPORARY_REPAIR}"
    return f"{name}: {error.strerror}; {remedy}"


def temporary_folder() -> Path:
    """Return the folder that is meant for temporary files."""
    return Path(os.environ.get("TMPDIR") or "/tmp")  # noqa: S108


def is_full(folder: Path) -> bool:
    """Return whether hardly anything can be written in a folder, because its disk is full."""
    return folder.exists() and shutil.disk_usage(folder).free < LITTLE


def listen() -> None:
    """Raise KeyboardInterrupt at SIGINT and Terminated at SIGTERM and SIGHUP.

    A signal that is ignored, as by nohup, stays ignored.
    """
    _raised.clear()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _arrived)


class Deferred:
    """A context in which signals wait until `answer` is called, or until its end.

    The same signal again, seconds later, ends the process at once.
    """

    def __enter__(self) -> Self:
        global _deferred  # noqa: PLW0603 - signals belong to the process
        self.arrived: dict[int, float] = {}
        _deferred = self.arrived
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        global _deferred  # noqa: PLW0603
        _deferred = None
        if kind is None:
            self.answer()

    def answer(self) -> None:
        """Raise the exception of a signal that has arrived, if one has."""
        for number in self.arrived:
            _raise(number)


def _arrived(number: int, _: FrameType | None) -> None:
    now = time.monotonic()
    if _deferred is None:
        if now - _raised.get(number, -IMPATIENT_S) >= IMPATIENT_S:
            _raise(number)
        return
    if now - _deferred.setdefault(number, now) > IMPATIENT_S:
        os._exit(128 + (signal.SIGINT if number == signal.SIGINT else signal.SIGTERM))


def _raise(number: int) -> None:
    _raised[number] = time.monotonic()
    raise KeyboardInterrupt if number == signal.SIGINT else Terminated
