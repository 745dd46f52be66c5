"""What retrace uses of DVC without documentation: still needed, and equal to what DVC says."""

import subprocess
from argparse import ArgumentParser
from pathlib import Path

import dvc.api
import pytest
from dvc.commands import queue
from dvc.repo import Repo

from retrace.errors import RetraceError
from retrace.pipeline import dvc_cli, dvc_internals


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    subprocess.run(["git", "init", "--quiet"], check=True)
    Repo.init(".").close()
    return tmp_path


def test_api_has_no_cache_remote_or_queue() -> None:
    """As soon as it has, dvc_internals should use that."""
    wanted = ("cache", "remote", "queue", "push", "config")
    assert [name for name in dvc.api.__all__ if any(word in name for word in wanted)] == []


def test_queue_has_no_command_that_puts_back() -> None:
    parser = ArgumentParser()
    queue.add_parser(parser.add_subparsers(), ArgumentParser(add_help=False))
    with pytest.raises(SystemExit):
        parser.parse_args(["queue", "requeue"])
    parser.parse_args(["queue", "start"])


@pytest.mark.parametrize(
    "command", [[], ["cache", "dir", "elsewhere"], ["cache", "dir", "--local", "../beside"]]
)
def test_cache_is_where_dvc_says(repository: Path, command: list[str]) -> None:
    if command:
        assert dvc_cli.run(*command).returncode == 0
    assert str(dvc_internals.cache().absolute()) == dvc_cli.run("cache", "dir").stdout.strip()
    with Repo(".") as repo:
        assert str(dvc_internals.objects().absolute()) == repo.cache.local.path


def test_set_cache_is_read_by_dvc(repository: Path, tmp_path: Path) -> None:
    shared = tmp_path / "shared, 'and' \"quoted\""
    dvc_internals.set_cache(repository, shared)
    assert dvc_internals.cache().resolve() == shared


def test_broken_configuration_is_one_line(repository: Path) -> None:
    (repository / ".dvc/config").write_text("[core\n")
    with pytest.raises(RetraceError, match="DVC's configuration: "):
        dvc_internals.config()


def test_no_remote_is_one_line(repository: Path) -> None:
    with dvc_internals.opened() as repo, pytest.raises(RetraceError, match="dvc remote add"):
        dvc_internals.Remote(repo)


def test_child_has_no_variables_of_a_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DVC_ROOT", "DVC_STAGE", "DVC_EXP_NAME", "GIT_DIR", "GIT_CONFIG_GLOBAL"):
        monkeypatch.setenv(name, "x")
    assert {"DVC_ROOT", "DVC_STAGE"} & dvc_cli.environment().keys() == set()
    assert "DVC_EXP_NAME" in dvc_cli.environment()
    kept = dvc_cli.environment("DVC_", "GIT_")
    assert "GIT_CONFIG_GLOBAL" in kept
    assert {"DVC_EXP_NAME", "GIT_DIR"} & kept.keys() == set()


@pytest.mark.parametrize(
    ("program", "options"), [("/bin/bash", ["--noprofile", "--norc"]), ("/bin/sh", [])]
)
def test_shell_is_dvcs(program: str, options: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHELL", program)
    assert dvc_internals.shell("echo a b") == [program, *options, "-c", "echo a b"]
