"""A stage's hold on the process beside it, which shows the stage's journal in MLflow while it grows.

A process and not a thread, because importing MLflow and waiting for a server would otherwise take training's time, and
because it outlives a stage that is killed, whose run it can then close. It is started before the stage imports torch,
so that both import side by side; following.py has what it does.

Until DVC ends, it then waits for the next stage of the same DVC, which so finds everything imported. A stage that is
not DVC's last may `leave` what it told to this process, which takes the next stage's meanwhile.
"""

import hashlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Collection
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

from retrace import processes
from retrace.errors import IMPATIENT_S
from retrace.redaction import redacted

ANSWER_S = 5.0  # for who waits to say so: it may be in the middle of an import
CODE = Path(__file__).parents[1]
ALONE = ("-s", "--single-item")  # of DVC: one stage and none after it
BEGIN_S = 60.0  # to begin: the imports, on a machine with other work


class Follower:
    """A stage's hold on the process beside it."""

    def __init__(self, link: socket.socket, pid: int, above: int | None) -> None:
        self.link, self.pid, self._above = link, pid, above

    def runs_all(self, stages: Collection[str]) -> bool:
        """Whether it is there for all of them, one after the other: of a DVC that was told of none by name."""
        if self._above is None or address_under(self._above) is None:
            return False
        return not {*stages, *ALONE} & set(processes.words(self._above))

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

    def leave(self) -> None:
        """MLflow will have all of the journal, which the next stage waits for; that one tells what it lacks."""
        self.link.close()

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
    if (address := address_under(above)) is None:
        return None
    link = socket.socket(socket.AF_UNIX)
    with suppress(OSError):  # there is none, or another stage was first
        link.connect(str(address))
        if select.select([link], [], [], ANSWER_S)[0] and (said := link.recv(4096, socket.MSG_PEEK)):
            return Follower(link, json.loads(said.splitlines()[0])["pid"], above)
    link.close()
    return None


def _new(above: int | None) -> Follower:
    ours, its = socket.socketpair()
    # There before the process that gets it is, whose imports may hold Python just when the next stage comes.
    listener = _free(address) if (address := address_under(above)) else None
    # Of a session of its own: what kills a stage's group, such as Ctrl-C, leaves it time to tell.
    with its, listener or nullcontext():
        heard = str(listener.fileno()) if listener else ""
        process = subprocess.Popen(
            [sys.executable, "-m", "retrace.tracking.following", str(above or ""), heard],
            stdin=its.fileno(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            pass_fds=[listener.fileno()] if listener else [],
        )
    process.returncode = 0  # it may outlive this process, which is not to wait for it
    return Follower(ours, process.pid, above)


def _free(address: Path) -> socket.socket | None:
    """What listens there, in the place of one that does not answer; where killed ones listened nothing is left."""
    with suppress(OSError):
        address.parent.mkdir(exist_ok=True)
        bound = Path("/proc/net/unix").read_text(encoding="utf-8")
        for left in address.parent.glob("beside-*"):
            if left == address or left.name not in bound:
                left.unlink(missing_ok=True)
    return listening(address)


def listening(address: Path) -> socket.socket | None:
    """What the next stage finds there; nothing where another listens, or a file system has no sockets."""
    listener = socket.socket(socket.AF_UNIX)
    try:
        listener.bind(str(address))
        listener.listen()
    except OSError:
        listener.close()
        return None
    return listener


def address_under(above: int | None) -> Path | None:
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
