"""The shell of DVC below `retrace dvc`: run a stage's command as DVC would have, and track it.

DVC calls `SHELL [options] -c COMMAND`. The user's real shell gets the same words and the same
environment. If tracking fails, the command runs all the same, with one line of warning.

    dvc -> shells/sh -> this program -> the user's shell -> the command
"""

import os
import signal
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from retrace.errors import RetraceError
from retrace.system import mlflow_environment

if TYPE_CHECKING:
    from retrace.system.processes import Identity
    from retrace.tracking.attempt import Attempt

# `retrace dvc` sets them, and no command sees them.
REAL_SHELL = "RETRACE_SHELL"  # SHELL as the user has it; empty if it is not set
PYTHON = "RETRACE_PYTHON"
NO_SHELL = "/bin/sh"  # DVC's choice without SHELL
SHELLS = Path(__file__).resolve().parent / "shells"


def main() -> NoReturn:
    """Run the words of the command line with the user's shell; track the stage's commands."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)  # until the command runs: nothing to save
    words = [os.environ.get(REAL_SHELL) or NO_SHELL, *sys.argv[1:]]
    env = environment()
    if "DVC_STAGE" in env and "-c" in words[:-1]:
        track(env["DVC_STAGE"], words, env, line=words[-1], dvc_pid=os.getppid())
    replace(words, env)


def for_dvc() -> dict[str, str]:
    """Return the environment in which DVC runs this program as its shell. Raises RetraceError."""
    return mlflow_environment.for_commands(os.environ) | variables()


def variables() -> dict[str, str]:
    """Return the variables by which DVC runs this program as its shell.

    DVC chooses a shell's options by its name, so ours has the name of the user's. Raises
    RetraceError if ours cannot be run.
    """
    real = os.environ.get("SHELL", "")
    if Path(real).parent == SHELLS:  # in the environment of another `retrace dvc`
        real = os.environ.get(REAL_SHELL, "")
    ours = SHELLS / (Path(real).name.lower() or "sh")
    if not os.access(ours, os.X_OK):
        ours = SHELLS / "sh"
    if not os.access(ours, os.X_OK):
        raise RetraceError(f"{ours} is not executable; install retrace again")
    return {"SHELL": str(ours), REAL_SHELL: real, PYTHON: sys.executable}


def environment() -> dict[str, str]:
    """Return the environment that the command would have without retrace."""
    ours = (REAL_SHELL, PYTHON, "SHELL")
    env = {name: value for name, value in os.environ.items() if name not in ours}
    shell = os.environ.get(REAL_SHELL)
    return env | {"SHELL": shell} if shell else env


def track(
    stage: str,
    words: list[str],
    env: Mapping[str, str],
    *,
    line: str,
    dvc_pid: int | None = None,
    only: str = "",
) -> NoReturn:
    """Run a command of a stage, track it, and end as it ends.

    `line` is the command in dvc.yaml, `dvc_pid` the DVC that runs it, by default the nearest above
    this process. With `only`, the stage's commands without these words are not tracked.
    """
    from retrace.system import processes
    from retrace.tracking import command

    dvc = processes.identity(dvc_pid) if dvc_pid else processes.dvc_above()
    attempt: Attempt | None = None
    with _warning(stage):
        attempt = _begin(stage, line, dvc, only)
        env = {**env, **attempt.variables()}
    try:
        with attempt.following() if attempt else nullcontext():
            outcome = command.run(words, env, dvc)
    except OSError as error:
        outcome = command.Outcome(_complain(words[0], error), "", "")
    if attempt:
        with _warning(stage):
            attempt.end(outcome)
    command.end_like(outcome.exit_code)


def replace(words: list[str], env: Mapping[str, str]) -> NoReturn:
    """Replace this process by a command. If there is no such command, exit as a shell does."""
    restore_signals()
    try:
        os.execvpe(words[0], words, env)  # noqa: S606
    except OSError as error:
        sys.exit(_complain(words[0], error))


def restore_signals() -> None:
    """Undo what Python does to signals: a program that replaces this one would inherit it."""
    for number in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)


def _begin(stage: str, line: str, dvc: "Identity | None", only: str) -> "Attempt":
    from retrace.errors import DataError
    from retrace.tracking.attempt import Attempt

    if dvc is None:
        raise DataError("DVC_STAGE is set, but no DVC is above this process")
    return Attempt(stage, line, dvc, only=only)


@contextmanager
def _warning(stage: str) -> Iterator[None]:
    """Print an exception as one line: whatever fails here, the stage must not."""
    try:
        yield
    except Exception as error:  # noqa: BLE001
        kind = "" if isinstance(error, (RetraceError, OSError)) else f"{type(error).__name__}: "
        reason = " ".join(f"{kind}{error}".split())
        print(f"warning: {stage} is not tracked: {reason}", file=sys.stderr, flush=True)


def _complain(program: str, error: OSError) -> int:
    """Print why a program cannot be started; return the exit code of a shell in this case."""
    print(f"{program}: {error.strerror}", file=sys.stderr)
    return 127 if isinstance(error, FileNotFoundError) else 126
