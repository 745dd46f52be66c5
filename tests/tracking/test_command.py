"""A command below us: its output, terminal, signals and exit code are as without us."""

import fcntl
import json
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
from faults.servers import until
from repository import ROOT

# Run the words of the command line, write the outcome to a file, and end like the command.
WRAPPER = """
import json, os, sys
from retrace.system import processes
from retrace.tracking import command

outcome = command.run(sys.argv[2:], os.environ, processes.identity(os.getppid()))
with open(sys.argv[1], "w") as file:
    json.dump(outcome, file)
command.end_like(outcome.exit_code)
"""
BYTES = "import os; os.write(1, bytes(range(256)) * 4000); os.write(2, b'to stderr')"


class Wrapped:
    """A wrapper around a command."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "outcome.json"
        self.env = os.environ | {"PYTHONPATH": str(ROOT / "src")}

    def words(self, *words: str) -> list[str]:
        return [sys.executable, "-c", WRAPPER, str(self.file), *words]

    def start(self, *words: str, **options: Any) -> "subprocess.Popen[Any]":
        pipe = subprocess.PIPE
        kinds: dict[str, Any] = {"stdin": pipe, "stdout": pipe, "stderr": pipe} | options
        return subprocess.Popen(self.words(*words), env=self.env, **kinds)

    def run(self, *words: str, **options: Any) -> tuple[int, bytes, bytes]:
        with self.start(*words, **options) as process:
            out, err = process.communicate(timeout=60)
        return process.returncode, out, err

    def outcome(self) -> tuple[int, str, str]:
        exit_code, stdout, stderr = json.loads(self.file.read_text())
        return exit_code, stdout, stderr


@pytest.fixture
def wrapped(tmp_path: Path) -> Wrapped:
    return Wrapped(tmp_path)


def read_until(descriptor: int, what: bytes) -> bytes:
    """Return what a terminal or pipe shows, up to `what` or its end."""
    shown = b""
    deadline = time.monotonic() + 30
    while what not in shown and time.monotonic() < deadline:
        if select.select([descriptor], [], [], 1)[0]:
            try:
                shown += os.read(descriptor, 1 << 16)
            except OSError:  # the end of a terminal
                break
    return shown


def test_output_is_unchanged(wrapped: Wrapped) -> None:
    words = (sys.executable, "-c", BYTES)
    plain = subprocess.run(words, capture_output=True, check=True)
    assert wrapped.run(*words) == (0, plain.stdout, plain.stderr)
    assert wrapped.outcome()[2] == "to stderr"


def test_order_is_kept_in_one_pipe(wrapped: Wrapped) -> None:
    script = "import os\nfor n in range(300): os.write(1 + n % 2, b'%d\\n' % n)"
    _, out, _ = wrapped.run(sys.executable, "-c", script, stderr=subprocess.STDOUT)
    expected = "".join(f"{number}\n" for number in range(300))
    assert out.decode() == expected
    assert wrapped.outcome() == (0, expected, "")


def test_output_arrives_at_once(wrapped: Wrapped) -> None:
    with wrapped.start("sh", "-c", "echo one; read word; echo $word") as process:
        assert process.stdout
        assert read_until(process.stdout.fileno(), b"\n") == b"one\n"
        assert process.communicate(b"two\n")[0] == b"two\n"


@pytest.mark.parametrize("code", [0, 1, 143, 255])
def test_exit_code_is_the_commands(wrapped: Wrapped, code: int) -> None:
    assert wrapped.run("sh", "-c", f"exit {code}")[0] == code


@pytest.mark.parametrize("name", ["SIGKILL", "SIGTERM", "SIGINT", "SIGSEGV", "SIGPIPE"])
def test_death_by_signal_is_passed_on(wrapped: Wrapped, name: str) -> None:
    number = signal.Signals[name]
    assert wrapped.run("sh", "-c", f"kill -{number.value} $$") == (-number, b"", b"")
    assert wrapped.outcome()[0] == -number


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP", "SIGUSR1"])
def test_signal_is_forwarded(wrapped: Wrapped, name: str) -> None:
    trap = f"trap 'echo got; exit 7' {name[3:]}; echo ready; while :; do sleep 0.05; done"
    with wrapped.start("sh", "-c", trap) as process:
        assert process.stdout
        read_until(process.stdout.fileno(), b"ready\n")
        process.send_signal(signal.Signals[name])
        assert process.communicate(timeout=30)[0] == b"got\n"
    assert process.returncode == 7


def test_interrupt_waits_for_command(wrapped: Wrapped) -> None:
    trap = "trap 'sleep 0.5; echo saved; exit 0' INT; echo ready; while :; do sleep 0.05; done"
    with wrapped.start("sh", "-c", trap, start_new_session=True) as process:
        assert process.stdout
        read_until(process.stdout.fileno(), b"ready\n")
        os.killpg(process.pid, signal.SIGINT)
        assert process.communicate(timeout=30)[0] == b"saved\n"
    assert process.returncode == 0


@pytest.mark.parametrize("prefix", [[], ["nohup"]])
def test_signal_dispositions_stay(wrapped: Wrapped, prefix: list[str]) -> None:
    command = ["grep", "-E", "Sig(Ign|Blk)", "/proc/self/status"]
    plain = subprocess.run([*prefix, *command], capture_output=True, check=True).stdout
    words = [*prefix, *wrapped.words(*command)]
    assert subprocess.run(words, env=wrapped.env, capture_output=True, check=True).stdout == plain


def test_closed_reader_ends_command(wrapped: Wrapped) -> None:
    with wrapped.start("yes") as process:
        assert process.stdout
        process.stdout.read(10)
        process.stdout.close()
        assert process.wait(timeout=30) == -signal.SIGPIPE


def test_closed_output_stays_closed(wrapped: Wrapped) -> None:
    words = ["sh", "-c", '"$@" >&-', "sh", *wrapped.words("sh", "-c", "echo no; exit 5")]
    ended = subprocess.run(words, env=wrapped.env, capture_output=True, check=False)
    assert ended.returncode == 5


def test_process_in_background_goes_on(wrapped: Wrapped) -> None:
    began = time.monotonic()
    with wrapped.start("sh", "-c", "(sleep 3; echo late) & echo early") as process:
        assert process.wait(timeout=30) == 0
        assert time.monotonic() - began < 2.9
        assert process.communicate(timeout=30)[0] == b"early\nlate\n"
    assert wrapped.outcome() == (0, "early\n", "")


def test_missing_program_raises(wrapped: Wrapped) -> None:
    code, _, err = wrapped.run("no-such-program")
    assert code == 1
    assert b"FileNotFoundError" in err


@contextmanager
def terminal(rows: int = 33, columns: int = 111) -> Iterator[tuple[int, int]]:
    """Yield both ends of a pseudo-terminal: the screen's and the program's."""
    screen, program = pty.openpty()
    resize(screen, rows, columns)
    try:
        yield screen, program
    finally:
        for end in (screen, program):
            os.close(end)


def resize(screen: int, rows: int, columns: int) -> None:
    fcntl.ioctl(screen, termios.TIOCSWINSZ, struct.pack("4H", rows, columns, 0, 0))


TERMINAL = """
import os, signal, sys, time
names = [os.isatty(descriptor) for descriptor in (0, 1, 2)]
print(*names, *os.get_terminal_size(1 if names[1] else 2), flush=True)
print("\\033[31mred\\033[0m\\r50%\\r100%", end="\\nready\\n", flush=True)
"""


@pytest.mark.parametrize("on_terminal", [("stdout", "stderr"), ("stdout",), ("stderr",)])
def test_terminal_stays_one(wrapped: Wrapped, on_terminal: tuple[str, ...]) -> None:
    shown = []
    for words in ([sys.executable, "-c", TERMINAL], wrapped.words(sys.executable, "-c", TERMINAL)):
        with terminal() as (screen, program):
            kinds: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
            kinds |= dict.fromkeys(on_terminal, program)
            with subprocess.Popen(
                words, env=wrapped.env, stdin=subprocess.DEVNULL, **kinds
            ) as process:
                printed = process.stdout.read() if process.stdout else b""
                process.wait(timeout=30)
            printed += read_until(screen, b"ready\r\n") if "stdout" in on_terminal else b""
            shown.append(printed)
    assert shown[0] == shown[1]
    flags = [str(name in on_terminal) for name in ("stdin", "stdout", "stderr")]
    assert wrapped.outcome()[1] == f"{' '.join(flags)} 111 33\n100%\nready\n"


def test_order_is_kept_on_terminal(wrapped: Wrapped) -> None:
    script = "import os\nfor n in range(300): os.write(1 + n % 2, b'%d\\n' % n)"
    expected = "".join(f"{number}\n" for number in range(300))
    with terminal() as (screen, program):
        wrapped.run(sys.executable, "-c", script, stdout=program, stderr=program)
        assert read_until(screen, b"299\r\n").decode() == expected.replace("\n", "\r\n")
    assert wrapped.outcome() == (0, expected, "")


def test_resized_terminal_is_noticed(wrapped: Wrapped) -> None:
    script = """
import os, signal, time
signal.signal(signal.SIGWINCH, lambda *_: print(*os.get_terminal_size(1), flush=True))
print("ready", flush=True)
for _ in range(3000):
    time.sleep(0.01)
    if os.get_terminal_size(1).lines == 44: break
"""
    with terminal() as (screen, program):
        start = wrapped.start(sys.executable, "-c", script, stdout=program, stderr=program)
        with start as process:
            read_until(screen, b"ready")
            resize(screen, 44, 55)
            process.send_signal(signal.SIGWINCH)
            assert b"55 44" in read_until(screen, b"55 44")
            process.wait(timeout=30)


STUBBORN = """
import os, signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print(os.getpid(), flush=True)
time.sleep(60)
"""


def test_command_ends_with_its_owner(wrapped: Wrapped, tmp_path: Path) -> None:
    """A shell with a process below it that ignores SIGTERM; the owner is killed."""
    pids = tmp_path / "pids"
    (tmp_path / "stubborn.py").write_text(STUBBORN)
    line = f"echo $$ > {pids}; {sys.executable} {tmp_path}/stubborn.py >> {pids}; echo no"
    words = wrapped.words("sh", "-c", line)
    owner = "import subprocess, sys; subprocess.run(sys.argv[1:])"
    command = [sys.executable, "-c", owner, *words]
    with subprocess.Popen(command, env=wrapped.env) as process:
        until(lambda: pids.exists() and len(pids.read_text().split()) == 2, what="the command")
        (wrapper,) = psutil.Process(process.pid).children()
        process.kill()
    began = time.monotonic()
    everyone = [wrapper.pid, *map(int, pids.read_text().split())]
    until(lambda: not any(map(psutil.pid_exists, everyone)), what="their end")
    assert time.monotonic() - began < 10
