"""The clones of tasks on one machine: those of killed processes are deleted, others are not."""

import os
import socket
import subprocess
import sys
from pathlib import Path

from retrace.cluster import scratch


def test_only_dead_clones_are_deleted(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as dead:
        pass
    begun, left, elsewhere = (
        tmp_path / f"{name}-{host}-{pid}"
        for name, host, pid in (
            ("begun", socket.gethostname(), os.getpid()),
            ("left", socket.gethostname(), dead.pid),
            ("other", "another-machine", dead.pid),
        )
    )
    for folder in (begun, left, elsewhere):
        (folder / "repo").mkdir(parents=True)
    scratch._remove_leftovers(tmp_path)
    assert (begun.exists(), left.exists(), elsewhere.exists()) == (True, False, True)
