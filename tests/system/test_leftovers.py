"""Folders of processes: those that killed ones left are deleted, others are not."""

import os
import subprocess
import sys
from pathlib import Path

from retrace.system import processes


def test_only_folders_of_dead_are_deleted(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as dead:
        pass
    begun = tmp_path / f"task-{os.getppid()}"  # not locked yet
    left = tmp_path / f"task-{dead.pid}"
    own = tmp_path / f"task-{os.getpid()}"
    locked = tmp_path / f"other-{dead.pid}"
    for folder in (begun, left, own, locked):
        (folder / "repo").mkdir(parents=True)
    with processes.try_lock(locked):
        processes.delete_leftovers(tmp_path.glob("*/"), ends_s=1)
    assert {folder for folder in tmp_path.iterdir() if folder.is_dir()} == {begun, locked}
