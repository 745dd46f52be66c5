"""`retrace run`: one stage's command is tracked, written so in dvc.yaml."""

import subprocess
import sys
from pathlib import Path

import pytest
from repository import Tree
from stranger import Project

from retrace.system import isolated

RETRACE = (sys.executable, "-I", str(isolated.__file__), "retrace.cli.main")
STAGES = {
    "one": {"cmd": "retrace run -- sh -c 'echo out; echo x > one.txt'", "outs": ["one.txt"]},
    "two": {"cmd": ["echo untracked", "retrace run echo 1", "retrace run -- echo 2 --help"]},
    "broken": {"cmd": "retrace run -- sh -c 'echo why >&2; exit 4'"},
    "last": {"cmd": "echo never"},
}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Project:
    """Return a project in which DVC has run all stages but the last."""
    folder = tmp_path_factory.mktemp("project")
    project = Project(folder, tmp_path_factory.mktemp("cache"), empty_store, STAGES)
    project.run("dvc", "repro", "--keep-going", "one", "two", "broken", code=255)
    return project


@pytest.mark.parametrize(
    ("stage", "status", "error"),
    [
        ("one", "FINISHED", None),
        ("two", "FINISHED", None),
        ("broken", "FAILED", "exit code 4: why"),
    ],
)
def test_status_is_truthful(project: Project, stage: str, status: str, error: str | None) -> None:
    assert project.status(stage) == (status, error)


def test_wrapped_stage_has_one_log(project: Project) -> None:
    project.run("retrace", "dvc", "repro", "--force", "--single-item", "one")
    assert len(project.logs("one")) == 2


def test_outside_dvc_is_a_warning(project: Project) -> None:
    printed = project.run("retrace", "run", "--", "sh", "-c", "echo out; exit 5", code=5)
    assert printed == "out\nwarning: not tracked: DVC does not run this command\n"


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ([], 2, "retrace run: no command; type it after --: retrace run -- COMMAND\n"),
        (["--", "no-such-program"], 127, "no-such-program: No such file or directory\n"),
        (["/dev/null"], 126, "/dev/null: Permission denied\n"),
    ],
)
def test_mistake_is_one_line(tmp_path: Path, words: list[str], code: int, message: str) -> None:
    tree = Tree(tmp_path, tmp_path)
    del tree.env["PATH"]
    printed = tree.run(*RETRACE, "run", *words, code=code)
    assert printed.replace("warning: not tracked: DVC does not run this command\n", "") == message


def test_working_directory_stays(tmp_path: Path) -> None:
    words = [*RETRACE, "run", "--", "pwd"]
    assert subprocess.check_output(words, cwd=tmp_path, text=True) == f"{tmp_path}\n"
