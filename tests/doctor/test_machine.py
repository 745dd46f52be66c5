"""The user and the folder for temporary files, as in a container or on a full disk."""

import os
import tempfile
from pathlib import Path
from typing import NoReturn

import pytest

from retrace.doctor import machine
from retrace.system import machine as system


@pytest.mark.usefixtures("nameless")
def test_user_without_a_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    system.name_user()  # as each command does
    (finding,) = machine.user()
    assert (finding.level, finding.repair) == ("problem", f"export USER=user{os.getuid()}")
    monkeypatch.setenv("USER", f"user{os.getuid()}")
    assert not list(machine.user())


def test_home_is_read_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)
    (finding,) = machine.user()
    assert (finding.level, finding.repair) == ("warning", "export HOME=/tmp")


def test_no_room_for_temporary_files(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [finding.level for finding in machine.temporary()] == ["ok"]
    monkeypatch.setattr(machine, "LEAST_TEMPORARY", 1e18)
    (finding,) = machine.temporary()
    assert (finding.level, finding.repair) == ("problem", "export TMPDIR=/var/tmp")

    def unusable() -> NoReturn:
        raise FileNotFoundError

    monkeypatch.setattr(tempfile, "gettempdir", unusable)
    (finding,) = machine.temporary()
    assert (finding.level, finding.repair) == ("problem", "export TMPDIR=/var/tmp")
