"""The user, also one that the system does not know, as in a container."""

import getpass
import os

import pytest

from retrace.errors import RetraceError
from retrace.system import machine


@pytest.mark.usefixtures("nameless")
def test_user_gets_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    machine.name_user()
    assert getpass.getuser() == os.environ["USER"] == str(os.getuid())
    monkeypatch.setenv("USER", "me")
    machine.name_user()
    assert os.environ["USER"] == "me"


@pytest.mark.usefixtures("nameless")
def test_home_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RetraceError, match="`export HOME="):
        machine.check_home()
    monkeypatch.setenv("HOME", "/")
    machine.check_home()
