"""What can go wrong that a user can mend, and how a stage says so: one line on stderr and an exit code.

Anything that is not a `RetraceError` is a defect of ours and keeps its traceback.
"""

import errno
import os
import signal
import sys
import time
from collections.abc import Callable
from types import FrameType
from typing import Self

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # no room for a file
CLOSED = (errno.EROFS, errno.EACCES, errno.EPERM)  # a file, to this user


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


IMPATIENT_S = 2.0  # the same signal sooner is the same call: a group's, DVC's and the terminal's come together

_waiting: dict[int, float] | None = None  # signals that arrived where they are deferred, and when


def run(main: Callable[[], None]) -> None:
    """The process ends as a shell expects: 0, 2 for a user's error, 130 for SIGINT, 143 for SIGTERM and SIGHUP."""
    listen()
    try:
        main()
    except RetraceError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    except OSError as error:
        if error.errno not in FULL and not (error.filename and error.errno in CLOSED):
            raise
        todo = "make room" if error.errno in FULL else "see that it can be read and written"
        print(f"{error.filename or 'the disk'}: {error.strerror}; {todo}, and type the same again", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(128 + signal.SIGINT)
    except Terminated:
        print("terminated", file=sys.stderr)
        sys.exit(128 + signal.SIGTERM)

    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # Python would take torch apart for a second


def listen() -> None:
    """SIGINT is KeyboardInterrupt from here on, SIGTERM and SIGHUP are Terminated, unless they are `Deferred`, or
    ignored, as by nohup.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _arrived)


class Deferred:
    """A signal that arrives within is answered when `answer` is called, and at the end. The same one again, seconds
    later, ends the process at once, for what hangs.
    """

    def __enter__(self) -> Self:
        global _waiting  # noqa: PLW0603 - signals are the process's
        _waiting = self.arrived = dict[int, float]()
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        global _waiting  # noqa: PLW0603
        _waiting = None
        if kind is None:
            self.answer()

    def answer(self) -> None:
        for number in self.arrived:
            _raise(number)


def _arrived(number: int, _: FrameType | None) -> None:
    if _waiting is None:
        _raise(number)
    elif time.monotonic() - _waiting.setdefault(number, time.monotonic()) > IMPATIENT_S:
        os._exit(128 + (signal.SIGINT if number == signal.SIGINT else signal.SIGTERM))


def _raise(number: int) -> None:
    raise KeyboardInterrupt if number == signal.SIGINT else Terminated
