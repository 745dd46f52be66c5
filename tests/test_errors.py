"""How a stage ends: signals, and errors of the disk as one line."""

import subprocess
import sys
from pathlib import Path

import pytest


def run(script: str) -> subprocess.CompletedProcess[str]:
    """Run a script in a new process."""
    command = [sys.executable, "-c", script]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(("pause_s", "out"), [(0.0, "continued\n"), (0.2, "")])
def test_second_signal_ends_the_process_if_later(pause_s: float, out: str) -> None:
    ended = run(
        "import os, signal, time\nfrom retrace import errors\nerrors.IMPATIENT_S = 0.1\n"
        "def main():\n"
        "    with errors.Deferred():\n"
        "        for number in (signal.SIGTERM, signal.SIGTERM):\n"
        f"            os.kill(os.getpid(), number); time.sleep({pause_s})\n"
        "        print('continued', flush=True)\n"
        "errors.run(main)"
    )
    assert (ended.returncode, ended.stdout) == (143, out)


def test_repeated_signal_is_one_signal() -> None:
    ended = run(
        "import os, signal\nfrom retrace import errors\n"
        "def main():\n"
        "    try:\n"
        "        os.kill(os.getpid(), signal.SIGTERM)\n"
        "    finally:\n"
        "        os.kill(os.getpid(), signal.SIGTERM); print('cleaned up', flush=True)\n"
        "errors.run(main)"
    )
    assert (ended.returncode, ended.stdout) == (143, "cleaned up\n")


@pytest.mark.parametrize(
    ("number", "remedy"), [("ENOSPC", "disk space"), ("EROFS", "writable"), ("EACCES", "writable")]
)
def test_disk_error_is_one_line(number: str, remedy: str) -> None:
    error = f"OSError(errno.{number}, 'the reason', 'a file')"
    ended = run(
        f"import errno\nfrom retrace import errors\ndef main(): raise {error}\nerrors.run(main)"
    )
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.startswith("a file: the reason; ")
    assert remedy in ended.stderr
    assert ended.stderr.count("\n") == 1


def test_ignored_signal_stays_ignored() -> None:
    ended = run(
        "import os, signal\nfrom retrace import errors\n"
        "signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
        "errors.run(lambda: os.kill(os.getpid(), signal.SIGHUP))"
    )
    assert ended.returncode == 0


@pytest.mark.parametrize(
    "error",
    [
        "OSError(errno.ENOSPC, 'the reason', f'{folder}/a file')",
        "FileNotFoundError(errno.ENOENT, 'No usable temporary directory found in [...]')",
    ],
)
def test_full_temporary_folder_is_named(error: str, tmp_path: Path) -> None:
    ended = run(
        f"import errno, os\nfrom retrace import errors\nfolder = {str(tmp_path)!r}\n"
        f"os.environ['TMPDIR'] = folder\ndef main(): raise {error}\nerrors.run(main)"
    )
    assert (ended.returncode, ended.stdout) == (2, "")
    assert "`export TMPDIR=" in ended.stderr
    assert ended.stderr.count("\n") == 1
