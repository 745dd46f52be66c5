"""The process beside a stage, which shows the stage's journal in MLflow while it grows.

A process and not a thread, because importing MLflow and waiting for a server would otherwise take training's time, and
because it outlives a stage that is killed, whose run it can then close. It is started before the stage imports torch,
so that both import side by side. Through a socket it is told which stage it is and, once there is one, the journal's
path; it knows that the stage is over when nothing more can come. From then on it says how long its next step may take,
in seconds, so that the stage waits for what gets on and for nothing else; its last words are what MLflow lacks, if it
lacks something, and that it is over.

Until DVC ends, it then waits for the next stage of the same DVC, which so finds everything imported.
"""

import hashlib
import json
import math
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Thread
from typing import Any

from retrace import journal, processes
from retrace.errors import IMPATIENT_S
from retrace.redaction import redacted

EVERY_S = 10.0  # between two looks at a journal that grows
GRACE_S = 2.0  # from SIGTERM to SIGKILL, for a stage whose DVC is gone
NEXT_S = 60.0  # until the next stage of the same DVC begins, which has what the last one made to put away
ANSWER_S = 1.0  # for who waits to say so
CODE = Path(__file__).parents[1]
BEGIN_S = 60.0  # to begin: the imports, on a machine with other work


class Follower:
    """A stage's hold on the process beside it."""

    def __init__(self, link: socket.socket, pid: int) -> None:
        self.link, self.pid = link, pid

    def follow(self, path: Path) -> None:
        """It shows the journal at `path` from now on."""
        with suppress(OSError):  # `finish` tells what it ended with
            self.link.sendall(os.fsencode(path))

    def finish(self) -> None:
        """MLflow has all of the journal, or a line on stderr says what it lacks.

        A signal is answered afterwards, so that it leaves no run that seems to go on; a second one, seconds later, at
        once.
        """
        arrived: dict[int, float] = {}

        def later(number: int, _: Any) -> None:
            if time.monotonic() - arrived.setdefault(number, time.monotonic()) > IMPATIENT_S:
                self._kill()

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
        said, told, within = b"", {}, BEGIN_S
        with self.link as link:
            with suppress(OSError):  # it has ended already
                link.shutdown(socket.SHUT_WR)
            while more := _read(link, within):
                *lines, said = (said + more).split(b"\n")
                for line in lines:
                    told |= json.loads(line)
                within = told.get("within", within)
            if more is None:
                self._kill()
                return f"no answer within {within:.0f} s"
        return told.get("lacking") or (None if "over" in told else "the process beside the stage ended without a word")

    def _kill(self) -> None:
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)


def _read(link: socket.socket, within: float) -> bytes | None:
    """What is there to read, nothing at the end; None where nothing comes for so many seconds."""
    ready, _, _ = select.select([link], [], [], within)
    with suppress(ConnectionResetError):  # it was killed with something unread
        return link.recv(4096) if ready else None
    return b""


def start() -> Follower:
    """The process beside this one: the last stage's, if that was of the same DVC, or a new one."""
    above = processes.dvc_above(os.getpid())
    follower = _waiting(above) or _new(above)
    with suppress(OSError):
        follower.link.sendall(json.dumps({"stage": os.getpid()}).encode() + b"\n")
    return follower


def _waiting(above: int | None) -> Follower | None:
    if (address := _address(above)) is None:
        return None
    link = socket.socket(socket.AF_UNIX)
    with suppress(OSError):  # there is none, or another stage was first
        link.connect(str(address))
        if select.select([link], [], [], ANSWER_S)[0] and link.recv(1, socket.MSG_PEEK):
            who = link.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
            return Follower(link, struct.unpack("3i", who)[0])
    link.close()
    return None


def _new(above: int | None) -> Follower:
    ours, its = socket.socketpair()
    # Of a session of its own: what kills a stage's group, such as Ctrl-C, leaves it time to tell.
    with its:
        process = subprocess.Popen(
            [sys.executable, "-m", "retrace.tracking.follower", str(above or "")],
            stdin=its.fileno(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
    process.returncode = 0  # it may outlive this process, which is not to wait for it
    return Follower(ours, process.pid)


def _address(above: int | None) -> Path | None:
    """Where the process beside the stages of that DVC waits for the next, which has the same folder, environment and
    code; nowhere, where no DVC runs stages.
    """
    if above is None or "DVC_STAGE" not in os.environ:
        return None
    same = {name: value for name, value in os.environ.items() if name != "DVC_STAGE"}
    code = [(str(file), file.stat().st_mtime_ns) for file in sorted(CODE.rglob("*.py"))]
    told = json.dumps([above, str(Path.cwd()), sys.executable, same, code], sort_keys=True)
    # Relative, since sockets' names are short.
    return Path(f".retrace/beside-{hashlib.sha256(told.encode()).hexdigest()[:16]}")


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


def end_with(stage: int, dvc: int) -> None:
    """When the process of the descriptor `dvc` has ended, nobody is left to take what the stage makes: it is told to
    end, and soon made to.
    """
    ours = os.pidfd_open(stage)
    select.select([ours, dvc], [], [])
    for number, within in ((signal.SIGTERM, GRACE_S), (signal.SIGKILL, 0.0)):
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(ours, number)
        if select.select([ours], [], [], within)[0]:
            break
    os.close(ours)


def main() -> None:
    above = int(sys.argv[1]) if sys.argv[1] else None
    dvc = _opened(above) if above else None
    address = _address(above)  # now, before MLflow's settings are in the environment
    link: socket.socket | None = socket.socket(fileno=os.dup(0))
    os.dup2(1, 0)  # or the stage would never hear the end of it
    while link:
        with link:
            link = serve(link, dvc, address)
    os._exit(0)  # Python would take MLflow and torch apart for a second or two


def _opened(pid: int) -> int:
    """A descriptor of that process, or of one that has ended, if it has."""
    try:
        return os.pidfd_open(pid)
    except ProcessLookupError:
        ended, other = os.pipe()
        os.close(other)
        return ended


def serve(link: socket.socket, dvc: int | None, address: Path | None) -> socket.socket | None:
    """One stage is followed; returns the link to the next."""

    def over(seconds: float) -> bool:
        return bool(select.select([link], [], [], seconds)[0])

    def say(**word: float | str) -> None:
        with suppress(OSError):  # the stage is gone
            link.sendall(json.dumps(word).encode() + b"\n")

    say(within=BEGIN_S)  # which tells who looked for this that it is there
    hello = link.makefile("rb", buffering=0).readline()
    if not hello:
        return None
    stage = json.loads(hello)["stage"]
    if dvc is not None:
        Thread(target=end_with, args=(stage, dvc), daemon=True).start()
    try:
        _warm_up()
        if path := link.recv(2 * 4096):  # nothing, if the stage ended before it had anything to tell
            follow(Path(os.fsdecode(path)), stage, over, say)
    except Exception as error:
        say(lacking=f"{type(error).__name__}: {_in_a_line(error)}")
        raise
    with _listening(address) as listener:
        say(over=1.0)
        link.close()
        return _next(listener, dvc)


@contextmanager
def _listening(address: Path | None) -> Iterator[socket.socket | None]:
    """The next stage can reach this, where there is a DVC that may start one, and a file system that has sockets."""
    with socket.socket(socket.AF_UNIX) as listener:
        try:
            if address is not None:
                address.unlink(missing_ok=True)  # of one that was killed
                listener.bind(str(address))
                listener.listen()
        except OSError:
            address = None
        try:
            yield listener if address else None
        finally:
            if address is not None:
                with suppress(OSError):
                    address.unlink(missing_ok=True)


def _next(listener: socket.socket | None, dvc: int | None) -> socket.socket | None:
    """The link to the next stage; None where none comes, or DVC ends."""
    if listener is None or dvc is None:
        return None
    ready, _, _ = select.select([listener, dvc], [], [], NEXT_S)
    return listener.accept()[0] if listener in ready else None


if __name__ == "__main__":
    main()
