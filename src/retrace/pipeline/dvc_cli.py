"""DVC as a child process: its environment, and what its commands print."""

import os
import subprocess
import sys
from pathlib import Path

OF_A_STAGE = ("DVC_ROOT", "DVC_STAGE")  # set for a stage; a DVC started there must not have them


def environment(*without: str) -> dict[str, str]:
    """Return this process's environment for a child, with the programs beside this Python first.

    It has no variable of a DVC stage and none whose name begins with a prefix in `without`. Git's
    GIT_CONFIG* always stay: they say where its configuration is.
    """
    kept = {
        name: value
        for name, value in os.environ.items()
        if name not in OF_A_STAGE
        and (not name.startswith(without) or name.startswith("GIT_CONFIG"))
    }
    programs = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    return kept | {"PATH": programs}


def command(*words: str) -> list[str]:
    """Return the command line that runs this environment's DVC."""
    return [sys.executable, "-m", "dvc", *words]


def run(*words: str, timeout: float | None = None) -> subprocess.CompletedProcess[str]:
    """Run a DVC command here and return what it printed and its exit code.

    Raises subprocess.TimeoutExpired after `timeout` seconds.
    """
    return subprocess.run(
        command(*words),
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=timeout,
    )
