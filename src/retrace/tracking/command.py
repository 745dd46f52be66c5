"""Run a command; pass on and record what it prints. It notices no difference.

Where our stdout or stderr is a terminal, so is the command's: a pseudo-terminal of the same size,
so that colours and progress bars stay. Where both are the same file or terminal, they are passed
on as one stream, because two would mix up the order in which they were written.
"""

import fcntl
import os
import resource
import select
import signal
import subprocess
import termios
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import NamedTuple, NoReturn, Self

from retrace.system.processes import Identity
from retrace.tracking.process_tree import WATCH_S, ProcessTree
from retrace.tracking.recording import Recording

STDOUT, STDERR = 1, 2
AWAITED = (signal.SIGINT, signal.SIGQUIT)  # a terminal sends them to the command too
FORWARDED = (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
LINGER_S = 0.5  # for processes that outlive the command to close its output
CHUNK = 1 << 16


class Outcome(NamedTuple):
    """How a command ended, and what is kept of its output."""

    exit_code: int  # negative for the number of the signal that killed it
    stdout: str  # stderr too, where both are the same file or terminal
    stderr: str


class Stream:
    """An output of the command: passed on to our file descriptor `target`, and recorded."""

    def __init__(self, target: int) -> None:
        self.target = target
        self.is_terminal = os.isatty(target)
        self.source, self.inner = os.openpty() if self.is_terminal else os.pipe()
        self.recording = Recording()
        if self.is_terminal:
            attributes = termios.tcgetattr(target)
            attributes[1] &= ~termios.OPOST  # the real terminal turns \n into \r\n, once
            termios.tcsetattr(self.inner, termios.TCSANOW, attributes)
            self.resize()

    def resize(self) -> None:
        """Give the pseudo-terminal the size of the terminal."""
        if self.is_terminal:
            size = fcntl.ioctl(self.target, termios.TIOCGWINSZ, bytes(8))
            fcntl.ioctl(self.source, termios.TIOCSWINSZ, size)

    def pass_on(self) -> bool:
        """Pass on what there is to read; return False at the end, or if nobody reads us."""
        try:
            data = os.read(self.source, CHUNK)
        except OSError:  # of a pseudo-terminal that no process has open
            return False
        self.recording.add(data)
        return bool(data) and _write(self.target, data)


class Signals:
    """A context in which signals are noted instead of ending this process.

    Ignored ones stay ignored. `descriptor` becomes readable when one arrives.
    """

    def __enter__(self) -> Self:
        self.arrived: list[int] = []
        self.descriptor, self._writer = os.pipe()
        os.set_blocking(self._writer, False)
        self._previous = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        self._handlers = {
            number: signal.signal(number, self._arrive)
            for number in (*AWAITED, *FORWARDED, signal.SIGWINCH, signal.SIGCHLD)
            if number == signal.SIGCHLD or signal.getsignal(number) != signal.SIG_IGN
        }
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        signal.set_wakeup_fd(self._previous)
        os.close(self.descriptor)
        os.close(self._writer)

    def _arrive(self, number: int, _: FrameType | None) -> None:
        self.arrived.append(number)


def run(words: Sequence[str], env: Mapping[str, str], owner: Identity | None = None) -> Outcome:
    """Run a command and wait for its end. If its owner dies, end the command and all below it.

    Raises OSError if it cannot be started.
    """
    streams = _streams()
    with Signals() as signals:
        try:
            process = subprocess.Popen(
                words,
                env=env,
                stdout=streams[STDOUT].inner if STDOUT in streams else None,
                stderr=streams[STDERR].inner if STDERR in streams else None,
            )
        finally:
            for stream in _unique(streams):
                os.close(stream.inner)
        tree = ProcessTree(process.pid, owner)
        left = _pass_on(process, _unique(streams), signals, tree)
        tree.finish()
        left = _drain(left)
    if left:
        _hand_over(left)
    texts = {target: stream.recording.text() for target, stream in streams.items()}
    if streams.get(STDOUT) is streams.get(STDERR):
        texts.pop(STDERR, None)
    return Outcome(process.returncode, texts.get(STDOUT, ""), texts.get(STDERR, ""))


def end_like(exit_code: int) -> NoReturn:
    """End this process as the command ended: with its exit code, or by the same signal."""
    if exit_code < 0:
        _, most = resource.getrlimit(resource.RLIMIT_CORE)
        resource.setrlimit(resource.RLIMIT_CORE, (0, most))  # the command's own core dump counts
        with suppress(OSError):  # SIGKILL has no handler
            signal.signal(-exit_code, signal.SIG_DFL)
        os.kill(os.getpid(), -exit_code)
    os._exit(exit_code if exit_code >= 0 else 128 - exit_code)  # without Python's clean-up


def _streams() -> dict[int, Stream]:
    """Return a stream for each of our outputs that is open; one for both if they are the same."""
    streams: dict[int, Stream] = {}
    for target in (STDOUT, STDERR):
        with suppress(OSError):  # it is closed
            os.fstat(target)
            is_same = STDOUT in streams and os.path.sameopenfile(STDOUT, target)
            streams[target] = streams[STDOUT] if is_same else Stream(target)
    return streams


def _unique(streams: Mapping[int, Stream]) -> list[Stream]:
    return list(dict.fromkeys(streams.values()))


def _pass_on(
    process: "subprocess.Popen[bytes]", streams: list[Stream], signals: Signals, tree: ProcessTree
) -> list[Stream]:
    """Pass on output and signals until the command ends; return the streams that are open."""
    while process.poll() is None:
        sources = [stream.source for stream in streams]
        ready, _, _ = select.select([signals.descriptor, *sources], [], [], WATCH_S)
        streams = _pass_on_ready(streams, ready)
        if signals.descriptor in ready:
            os.read(signals.descriptor, CHUNK)
        while signals.arrived:
            _answer(signals.arrived.pop(0), process, streams)
        tree.check()
    return streams


def _pass_on_ready(streams: list[Stream], ready: Iterable[int]) -> list[Stream]:
    """Pass on what the streams in `ready` have; return those that are still open."""
    closed = [stream for stream in streams if stream.source in ready and not stream.pass_on()]
    for stream in closed:
        os.close(stream.source)  # if nobody reads us, the command learns it by its next output
    return [stream for stream in streams if stream not in closed]


def _answer(number: int, process: "subprocess.Popen[bytes]", streams: Iterable[Stream]) -> None:
    if number == signal.SIGWINCH:
        for stream in streams:
            stream.resize()
    if number == signal.SIGWINCH or number in FORWARDED:
        process.send_signal(number)


def _drain(streams: list[Stream]) -> list[Stream]:
    """Pass on the rest of the output; return the streams that outliving processes keep open."""
    deadline = time.monotonic() + LINGER_S
    while streams and (left_s := deadline - time.monotonic()) > 0:
        sources = [stream.source for stream in streams]
        streams = _pass_on_ready(streams, select.select(sources, [], [], left_s)[0])
    return streams


def _hand_over(streams: list[Stream]) -> None:
    """Let a process of its own pass on what outliving processes still write, without recording.

    Without retrace they would write to our outputs themselves, after the end of the command.
    """
    if os.fork():
        for stream in streams:
            os.close(stream.source)
        return
    try:
        for number in AWAITED:
            signal.signal(number, signal.SIG_IGN)  # as a shell does for processes in the background
        sources = {stream.source for stream in streams}
        for descriptor in [int(path.name) for path in Path("/dev/fd").iterdir()]:
            if descriptor > STDERR and descriptor not in sources:
                with suppress(OSError):  # that of the listing itself
                    os.close(descriptor)  # a lock, for example
        while streams:
            ready, _, _ = select.select([stream.source for stream in streams], [], [])
            streams = _pass_on_ready(streams, ready)
    finally:
        os._exit(0)


def _write(target: int, data: bytes) -> bool:
    """Write all of `data`, or return False if that is impossible."""
    rest = memoryview(data)
    while rest:
        try:
            rest = rest[os.write(target, rest) :]
        except BlockingIOError:
            select.select([], [target], [])
        except OSError:
            return False
    return True
