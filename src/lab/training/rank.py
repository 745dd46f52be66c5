"""One process of a training in several: a rank, which `launcher` has started.

It ends with its launcher, and reports an error to it instead of printing it, so that the error
that came first is printed, and only once.
"""

import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from threading import Thread

from lab.training.processes import PeerLostError
from retrace import errors
from retrace.errors import Terminated

LAUNCHER = "RETRACE_LAUNCHER"  # variable of the ranks: the process ID of their launcher
REPORT = "TORCHELASTIC_ERROR_FILE"  # variable of torch.distributed's launcher: the report's path
CHECK_S = 1.0  # between two looks at the launcher
# Exit codes without a report:
PEER_LOST = os.EX_TEMPFAIL  # another rank has ended
STOPPED = 128 + signal.SIGTERM


def is_this() -> bool:
    """Return whether this process is a rank that `launcher` has started."""
    return LAUNCHER in os.environ


def run(main: Callable[[], None]) -> None:
    """Run a stage's program and exit as `errors.run` does; in a rank, report its error instead."""
    errors.run(partial(_reported, main) if is_this() else main)


def _reported(main: Callable[[], None]) -> None:
    Thread(target=_end_with_launcher, daemon=True, name="launcher").start()
    try:
        code = _exit_code(main)
    except (KeyboardInterrupt, Terminated):  # perhaps while another error was handled
        code = STOPPED
    if code:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _exit_code(main: Callable[[], None]) -> int:
    try:
        main()
    except PeerLostError:
        return PEER_LOST
    except Exception as error:  # noqa: BLE001 - the launcher prints it
        return _report(error)
    return 0


def _report(error: Exception) -> int:
    """Write the report of an error, in the format of torch.distributed; return the exit code."""
    line = errors.one_line(error)
    code = 2 if line else 1
    report = {
        "message": f"{type(error).__name__}: {error}",
        "timestamp": time.time_ns(),
        "text": line or traceback.format_exc().rstrip(),
        "code": code,
    }
    Path(os.environ[REPORT]).write_text(json.dumps(report), encoding="utf-8")
    return code


def _end_with_launcher() -> None:
    """End this process when its launcher no longer exists: it may have been killed."""
    launcher = int(os.environ[LAUNCHER])
    while os.getppid() == launcher:
        time.sleep(CHECK_S)
    os._exit(STOPPED)
