"""DVC as a child process that tracks its stages, and that can be ended so that it may resume."""

import os
import shutil
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO

import psutil

from retrace import errors
from retrace.pipeline import dvc_cli
from retrace.system import mlflow_environment, processes
from retrace.tracking import shell

ENDS_S = 60.0  # for a stage to end on SIGTERM: saved, and uploaded
SAVES_S = 5.0  # for DVC to end after its stage
WRAPPER = "retrace.tracking.shell"  # a word of the process that tracks a stage's command


def command(*words: str) -> list[str]:
    """Return the command of the DVC in PATH, which has the stages' environment, else of ours."""
    program = shutil.which("dvc")
    return [program, *words] if program else dvc_cli.command(*words)


def environment(*, tracks: bool = True) -> dict[str, str]:
    """Return an environment in which DVC tracks its stages, or leaves that to them."""
    env = shell.for_dvc() if tracks else mlflow_environment.for_commands(os.environ)
    if shutil.which("dvc") is None:
        env["PATH"] = dvc_cli.environment()["PATH"]
    return {name: value for name, value in env.items() if name not in dvc_cli.OF_A_STAGE}


def run(
    words: list[str], folder: Path, env: Mapping[str, str], out: IO[bytes] | None = None
) -> int:
    """Run a command of DVC in its own session; return its exit code. `out` gets what it prints.

    If a signal ends this process, the command's stages end first, so that they can resume. If this
    process is killed, DVC is killed too, and what tracks its stages ends them.
    """
    process = subprocess.Popen(
        words,
        cwd=folder,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=out,
        stderr=out,
        start_new_session=True,
        preexec_fn=processes.die_with_parent,  # noqa: PLW1509 - it takes no lock
    )
    try:
        return process.wait()
    except BaseException:
        with errors.Deferred():
            stop(process)
        raise


def stop(process: "subprocess.Popen[bytes]", ends_s: float = ENDS_S) -> None:
    """End DVC and its stages.

    Only the commands of stages get a signal. What tracks them then ends by itself, once the event
    log has its end and is uploaded.
    """
    below = _below(process)
    for each in below:
        with suppress(psutil.Error):
            if WRAPPER not in each.cmdline():
                each.terminate()
    psutil.wait_procs(below, timeout=ends_s)
    with suppress(subprocess.TimeoutExpired):
        process.wait(SAVES_S if below else 0)
    process.kill()  # its stage, if it has one, ends by itself then
    process.wait()


def _below(process: "subprocess.Popen[bytes]") -> list[psutil.Process]:
    """Return the processes below DVC, without background uploaders, which have own sessions."""
    try:
        below = psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []
    inside: list[psutil.Process] = []
    for each in below:
        with suppress(ProcessLookupError):
            if os.getsid(each.pid) == process.pid:
                inside.append(each)
    return inside
