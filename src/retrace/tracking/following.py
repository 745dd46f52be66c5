"""What the process beside a stage does: it shows the stage's journal in MLflow while it grows; see follower.py.

Through a socket it is told which stage it is and, once there is one, the journal's path; it knows that the stage is
over when nothing more can come. From then on it says how long its next step may take, in seconds, so that the stage
waits for what gets on and for nothing else; its last words are what MLflow lacks, if it lacks something, and that it
is over.
"""

import gc
import json
import math
import os
import select
import signal
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from threading import Thread
from typing import Any

from retrace import journal, processes
from retrace.tracking.follower import BEGIN_S, listening

FIRST_S, EVERY_S = 0.5, 10.0  # between two looks at a journal that grows: at first, and at last
GRACE_S = 2.0  # from SIGTERM to SIGKILL, for a stage whose DVC is gone
NEXT_S = 60.0  # until the next stage of the same DVC begins, which has what the last one made to put away


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
        reason, waited_for, pause = None, False, FIRST_S
        while not over(0) and not shown.ended:
            try:
                shown.advance(patience)
                reason = None
                upload.leftovers(path.parent, stop=lambda: over(0))
            except Exception as error:  # noqa: BLE001 - whatever MLflow, its server or its store can fail with
                reason, waited_for = error, over(0)
            if not shown.ended and not over(pause):
                pause = min(2 * pause, EVERY_S)
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
    gc.disable()  # as in a stage's own imports
    from retrace.tracking import store

    with suppress(Exception):  # whatever it is, `follow` meets it again, and tells
        store.warm_up()
    gc.freeze()
    gc.enable()


def _in_a_line(error: Exception | None) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__


class Door:
    """Where the next stage of the same DVC finds this process, until one has come or none can come any more. Another is
    then free to have one there.
    """

    def __init__(self, listener: socket.socket) -> None:
        listener.set_inheritable(False)  # or a process started here could hold it open
        self._listener, self.address = listener, Path(listener.getsockname())
        self._inode = self._found()

    def wait(self, dvc: int) -> socket.socket | None:
        """The link to the next stage; None where none comes, or DVC ends."""
        with suppress(OSError):
            if self._listener in select.select([self._listener, dvc], [], [], NEXT_S)[0]:
                return self._listener.accept()[0]
        return None

    def close(self) -> None:
        """Who has come after that one, and waits, knows it at once."""
        with self._listener:
            if self._found() == self._inode:  # and not of one that took this one's place, which did not answer
                self.address.unlink(missing_ok=True)
        self._inode = None

    def _found(self) -> int | None:
        with suppress(OSError):  # as where its folder is gone
            return self.address.stat().st_ino
        return None


class Next(Thread):
    """While a stage is at work, and until this is done with it: its end, should its DVC end before it; after it, the
    link to the next stage of the same DVC, if one comes.
    """

    def __init__(self, stage: int, dvc: int, door: Door | None) -> None:
        super().__init__(daemon=True)
        self.stage, self.dvc, self.door = stage, dvc, door
        self.link: socket.socket | None = None

    def run(self) -> None:
        end_with(self.stage, self.dvc)
        if self.door:
            self.link = self.door.wait(self.dvc)
            self.door.close()
        if self.link:
            _say(self.link, within=BEGIN_S, pid=os.getpid())  # which tells who looked for this that it is there


def end_with(stage: int, dvc: int) -> None:
    """The stage is over. When the process of the descriptor `dvc` has ended, nobody is left to take what it makes: it
    is told to end, and soon made to.
    """
    ours = _opened(stage)
    if ours not in select.select([ours, dvc], [], [])[0]:
        for number, within in ((signal.SIGTERM, GRACE_S), (signal.SIGKILL, 0.0)):
            with suppress(OSError):
                signal.pidfd_send_signal(ours, number)
            if select.select([ours], [], [], within)[0]:
                break
    os.close(ours)


def _opened(pid: int) -> int:
    """A descriptor of that process, or of one that has ended, if it has."""
    try:
        return os.pidfd_open(pid)
    except ProcessLookupError:
        ended, other = os.pipe()
        os.close(other)
        return ended


def _say(link: socket.socket, **word: float | str) -> bool:
    """Whether the stage is still there to hear it."""
    try:
        link.sendall(json.dumps(word).encode() + b"\n")
    except OSError:
        return False
    return True


def main() -> None:
    above, heard = (int(word) if word else None for word in sys.argv[1:])
    dvc = None if above is None else _opened(above)
    door = None if heard is None else Door(socket.socket(fileno=heard))
    link: socket.socket | None = socket.socket(fileno=os.dup(0))
    os.dup2(1, 0)  # or the stage would never hear the end of it
    unsaid: dict[Path, str] = {}
    try:
        while link:
            with link:
                link = serve(link, dvc, door, unsaid)
            if link and door:
                listener = listening(door.address)
                door = Door(listener) if listener else None
    finally:
        if door:
            door.close()
    os._exit(0)  # Python would take MLflow and torch apart for a second or two


def serve(link: socket.socket, dvc: int | None, door: Door | None, unsaid: dict[Path, str]) -> socket.socket | None:
    """One stage is followed; returns the link to the next. `unsaid` is what MLflow lacks, by journal, of stages that
    did not wait to hear it: this one is told, if that is still so.
    """
    path, hello = Path(), link.makefile("rb", buffering=0).readline()
    if not hello:
        return None

    def over(seconds: float) -> bool:
        return bool(select.select([link], [], [], seconds)[0])

    def say(**word: float | str) -> None:
        if not _say(link, **word) and "lacking" in word:
            unsaid[path] = str(word["lacking"])

    stage = json.loads(hello)["stage"]
    coming = None if dvc is None else Next(stage, dvc, door)
    if coming:
        coming.start()
    _warm_up()
    try:
        if told := link.recv(2 * 4096):  # nothing, if the stage ended before it had anything to tell
            path = Path(os.fsdecode(told))
            follow(path, stage, over, say)
    except Exception as error:
        say(lacking=f"{type(error).__name__}: {_in_a_line(error)}")
        raise
    for earlier in [earlier for earlier in unsaid if earlier != path and earlier.exists()]:
        say(lacking=unsaid.pop(earlier))
    say(over=1.0)
    link.close()
    if coming is None:
        return None
    coming.join()
    return coming.link


if __name__ == "__main__":
    main()
