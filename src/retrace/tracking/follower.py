"""The process beside a stage, which shows the stage's journal in MLflow while it grows.

A process and not a thread, because importing MLflow and waiting for a server would otherwise take training's time, and
because it outlives a stage that is killed, whose run it can then close. It is started before the stage imports torch,
so that both import side by side. On its standard input it is told the journal's path once there is one, and it knows
that the stage is over when its standard input ends. From then on it says on its standard output how long its next step
may take, in seconds, so that the stage waits for what gets on and for nothing else; its last word is what MLflow lacks,
if it lacks something.
"""

import json
import math
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from threading import Thread
from typing import Any

from retrace import journal, processes
from retrace.errors import IMPATIENT_S
from retrace.redaction import redacted

EVERY_S = 10.0  # between two looks at a journal that grows
GRACE_S = 2.0  # from SIGTERM to SIGKILL, for a stage whose DVC is gone
BEGIN_S = 60.0  # to begin: the imports, on a machine with other work


class Follower:
    """A stage's hold on the process beside it."""

    def __init__(self, process: "subprocess.Popen[bytes]") -> None:
        self.process = process

    def follow(self, path: Path) -> None:
        """It shows the journal at `path` from now on."""
        assert self.process.stdin is not None  # noqa: S101 - a pipe
        with suppress(BrokenPipeError):  # `finish` tells what it ended with
            self.process.stdin.write(os.fsencode(path))

    def finish(self) -> None:
        """MLflow has all of the journal, or a line on stderr says what it lacks.

        A signal is answered afterwards, so that it leaves no run that seems to go on; a second one, seconds later, at
        once.
        """
        arrived: dict[int, float] = {}

        def later(number: int, _: Any) -> None:
            if time.monotonic() - arrived.setdefault(number, time.monotonic()) > IMPATIENT_S:
                self.process.kill()

        signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        handlers = {number: signal.signal(number, later) for number in signals}
        try:
            if lacking := self._waited():
                said = f"warning: MLflow lacks some of this run: {redacted(lacking)}; later, `retrace sync` uploads it"
                print(said, file=sys.stderr)
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
            for number in arrived:
                os.kill(os.getpid(), number)

    def _waited(self) -> str | None:
        """What MLflow lacks, if it lacks something."""
        with self.process as process:  # its pipes are closed and it is no zombie, whatever happens
            assert process.stdin is not None  # noqa: S101 - both are pipes
            assert process.stdout is not None  # noqa: S101
            with suppress(BrokenPipeError):
                process.stdin.close()
            said, lacking, within = b"", None, BEGIN_S
            while more := _read(process.stdout.fileno(), within):
                *lines, said = (said + more).split(b"\n")
                for word in filter(None, map(_word, lines)):
                    within, lacking = word.get("within", within), word.get("lacking", lacking)
            if more is None:
                process.kill()
                return f"no answer within {within:.0f} s"
        return lacking or (
            f"the process beside the stage ended with {process.returncode}" if process.returncode else None
        )


def _word(line: bytes) -> dict[str, Any] | None:
    """What the follower said; None for what a library printed before it had its own way."""
    with suppress(ValueError):
        word = json.loads(line)
        return word if isinstance(word, dict) else None
    return None


def _read(file: int, within: float) -> bytes | None:
    """What is there to read, nothing at the end; None where nothing comes for so many seconds."""
    ready, _, _ = select.select([file], [], [], within)
    return os.read(file, 4096) if ready else None


def start() -> Follower:
    """The process beside this one."""
    # Of a session of its own: what kills a stage's group, such as Ctrl-C, leaves it time to tell.
    who = [str(os.getpid()), str(processes.dvc_above(os.getpid()) or "")]
    process = subprocess.Popen(
        [sys.executable, "-m", "retrace.tracking.follower", *who],
        bufsize=0,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    return Follower(process)


def follow(path: Path, stage: int, over: Callable[[float], bool], say: Callable[..., None]) -> None:
    """MLflow has the journal at `path` when the stage, whose process is `stage`, is over.

    `over` waits some seconds for that and says whether it is so; `say` tells the stage what it can rely on.
    """
    from retrace.tracking import system, upload

    def patience(seconds: float) -> None:
        if over(0):  # nobody listens before, and a pipe that nobody reads is full one day
            say(within=seconds)

    shown, meter = upload.Upload(path), system.Meter(stage)
    with processes.alone(path, within=math.inf):
        reason, waited_for = None, False
        while not over(0) and not shown.ended:
            try:
                shown.advance(patience)
                reason = None
                upload.leftovers(path.parent, stop=lambda: over(0))
            except Exception as error:  # noqa: BLE001 - whatever MLflow, its server or its store can fail with
                reason, waited_for = error, over(0)
            if not shown.ended and not over(EVERY_S):
                with suppress(OSError):  # a full disk
                    journal.append(path, meter.event())
        if not shown.ended:
            journal.close(path)
            _show_the_rest(shown, reason, patience, say, waited_for=waited_for)


def _show_the_rest(
    shown: Any,
    reason: Exception | None,
    patience: Callable[[float], None],
    say: Callable[..., None],
    *,
    waited_for: bool,
) -> None:
    """MLflow has a journal that is closed, or the stage is told what it lacks; `reason` made it fail last time."""
    from retrace.tracking import upload

    if waited_for and not upload.is_local():  # it has had its time, and the stage must not wait twice
        say(lacking=_in_a_line(reason))
        return
    within = 4 * upload.ANSWER_S if reason is None else upload.ANSWER_S
    say(within=max(within, upload.LOCAL_S if upload.is_local() else 0.0))
    try:
        shown.advance(patience)
    except Exception as error:  # noqa: BLE001
        say(lacking=_in_a_line(error))


def _warm_up() -> None:
    """What uploads is imported, and a database that is there is open, while the stage imports what it needs."""
    from retrace.tracking import store

    with suppress(Exception):  # whatever it is, `follow` meets it again, and tells
        store.warm_up()


def _in_a_line(error: Exception | None) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__


def end_with(stage: int, above: int) -> None:
    """When the process `above` has ended, DVC's, nobody is left to take what the stage makes: it is told to end, and
    soon made to.
    """
    ours = os.pidfd_open(stage)
    with suppress(ProcessLookupError):  # it has ended already
        select.select([ours, os.pidfd_open(above)], [], [])
    for number, within in ((signal.SIGTERM, GRACE_S), (signal.SIGKILL, 0.0)):
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(ours, number)
        if select.select([ours], [], [], within)[0]:
            return


def main() -> None:
    stage, above = int(sys.argv[1]), sys.argv[2]
    if above:
        Thread(target=end_with, args=(stage, int(above)), daemon=True).start()

    def over(seconds: float) -> bool:
        return bool(select.select([0], [], [], seconds)[0])

    words = os.dup(1)
    os.dup2(2, 1)  # MLflow prints where a run is; what the stage reads is ours alone

    def say(**word: float | str) -> None:
        with suppress(BrokenPipeError):
            os.write(words, json.dumps(word).encode() + b"\n")

    try:
        _warm_up()
        if path := os.read(0, 2 * 4096):  # nothing, if the stage ended before it had anything to tell
            follow(Path(os.fsdecode(path)), stage, over, say)
    except Exception as error:
        say(lacking=f"{type(error).__name__}: {_in_a_line(error)}")
        raise
    os._exit(0)  # the stage waits, and Python would take MLflow and torch apart for a second or two


if __name__ == "__main__":
    main()
