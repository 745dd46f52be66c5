"""Run DVC as a child process: its command line, its environment, and what it prints."""

import os
import re
import subprocess
import sys
from pathlib import Path

from retrace.system import mlflow_environment

OF_A_STAGE = ("DVC_ROOT", "DVC_STAGE")  # set for a stage, but not for a DVC that it starts
BRACES = frozenset("{}")
# DVC gives git the folder of a `--temp` experiment as a URL, in which these mean something else.
IN_URLS = re.compile(r"[#?\n\r]|%[\dA-Fa-f]{2}")


def path_fault(root: Path) -> str | None:
    """Return what DVC cannot do in a repository at this path; None if nothing is known."""
    if not BRACES.isdisjoint(str(root)):
        return f"DVC runs no stage in {str(root)!r}: rename the folder, without {{ and }}"
    if IN_URLS.search(str(root)):
        what = "`dvc exp run --temp`, DVC's queue and `retrace sweep` lose experiments in"
        return f"{what} {str(root)!r}: rename the folder, without #, ?, %20 and the like"
    return None


def environment(*without: str) -> dict[str, str]:
    """Return this process's environment for a child, with this Python's folder first in PATH.

    Variables of a DVC stage, and those with a prefix in `without`, are left out. Git's GIT_CONFIG*
    are always kept: they say where its configuration is.
    """
    kept = {
        name: value
        for name, value in mlflow_environment.for_commands(os.environ).items()
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
