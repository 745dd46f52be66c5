"""The stage's handle on its background uploader, which mirrors the event log to MLflow as it grows.

A process and not a thread: importing MLflow and waiting for a server would otherwise slow training
down. It also outlives a stage that is killed, and closes its run. Its program is
retrace.tracking.uploader.
"""

import json
import os
import select
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from retrace.errors import IMPATIENT_S
from retrace.system import isolated, processes
from retrace.system.redaction import redacted

BEGIN_S = 60.0  # for its first answer: it may still be importing MLflow, on a busy machine


class Uploader:
    """The background uploader of the event log at `path`.

    It runs in its own session, so that Ctrl-C does not end it. With `is_continued`, this process
    is only the first of the stage; the uploader goes on until the event log has an end.
    """

    def __init__(self, path: Path, *, has_successor: bool, is_continued: bool = False) -> None:
        dvc = processes.dvc_above()
        words = [str(path), *([f"--dvc={processes.to_line(dvc)}"] if dvc else [])]
        words += ["--has-successor"] if has_successor else []
        words += ["--is-continued"] if is_continued else []
        self._process = subprocess.Popen(
            [*isolated.python("retrace.tracking.uploader"), *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            start_new_session=True,
        )

    def detach(self) -> None:
        """Let it finish by itself.

        What it cannot upload stays pending, and is reported by the last stage or `retrace doctor`.
        """
        self._output.close()  # first, so that the uploader sees that nobody waits
        self._close_input()
        self._process.returncode = 0  # or Python would warn that the process outlives this one

    def wait(self) -> None:
        """Wait until MLflow has the whole event log; if data is missing, print a line on stderr.

        A signal is handled afterwards, so that no run stays RUNNING. The same signal again, seconds
        later, ends the wait.
        """
        arrived: dict[int, float] = {}

        def postpone(number: int, _: Any) -> None:
            if time.monotonic() - arrived.setdefault(number, time.monotonic()) > IMPATIENT_S:
                self._process.kill()

        signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        handlers = {number: signal.signal(number, postpone) for number in signals}
        try:
            lacking = self._lacking()
            if lacking:
                state = f"some data of this run is not in MLflow yet ({redacted(lacking)})"
                print(f"warning: {state}; `retrace sync` uploads it later", file=sys.stderr)
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
            for number in arrived:
                os.kill(os.getpid(), number)

    def _lacking(self) -> str | None:
        """Wait for the uploader's end; return why data is missing in MLflow, if it is."""
        answer: dict[str, Any] = {"within": BEGIN_S}
        self._close_input()
        with self._output as output:
            while line := _read_line(output, answer["within"]):
                answer |= json.loads(line)
        if line is None:
            self._process.kill()
        self._process.wait()
        if line is None:
            return f"no answer within {answer['within']:.0f} s"
        if "done" in answer:
            return answer.get("lacking")
        return answer.get("lacking", "the background uploader was killed")

    def _close_input(self) -> None:
        """Tell it that the stage is over: by a byte, because a child may keep the pipe open."""
        assert self._process.stdin  # noqa: S101 - it is a pipe
        with suppress(OSError):  # it has ended already
            self._process.stdin.write(b"\n")
        self._process.stdin.close()

    @property
    def _output(self) -> IO[bytes]:
        assert self._process.stdout  # noqa: S101 - it is a pipe
        return self._process.stdout


def _read_line(pipe: IO[bytes], timeout_s: float) -> bytes | None:
    """Return the next line, nothing at the end of the output, None if no line comes in time."""
    ready, _, _ = select.select([pipe], [], [], timeout_s)
    return pipe.readline() if ready else None
