"""`retrace dvc`: it becomes DVC, and changes nothing in the repository."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from repository import Tree

from retrace.system import isolated
from retrace.tracking import shell

RETRACE = (sys.executable, "-I", str(isolated.__file__), "retrace.cli.main")
DVC = """#!/bin/sh
printf '%s\\n' "$$" "$PWD" "$SHELL" "$RETRACE_SHELL" "$#" "$@"
exit 7
"""


@pytest.fixture
def tree(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Tree:
    """Return an empty git repository, with a program in PATH that is called dvc."""
    programs = tmp_path_factory.mktemp("bin")
    (programs / "dvc").write_text(DVC)
    (programs / "dvc").chmod(0o755)
    tree = Tree(tmp_path, programs)
    tree.env |= {"PATH": f"{programs}:/usr/bin:/bin", "SHELL": "/bin/bash"}
    tree.run("git", "init", "--quiet")
    (tmp_path / ".dvc").mkdir()
    return tree


def retrace(tree: Tree, *words: str, folder: Path | None = None, **env: str) -> list[str]:
    """Return what the program saw, without its PID, which is that of `retrace`."""
    with subprocess.Popen(
        [*RETRACE, "dvc", *words],
        cwd=folder or tree.path,
        env=tree.env | env,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        printed, _ = process.communicate(timeout=60)
    assert process.returncode == 7
    pid, *seen = printed.splitlines()
    assert int(pid) == process.pid
    return seen


@pytest.mark.parametrize(
    "words", [[], ["--help"], ["repro", "--", "a"], ["exp", "run", "-S", "lr=0.1", "--json"]]
)
def test_words_are_for_dvc(tree: Tree, words: list[str]) -> None:
    assert retrace(tree, *words)[3:] == [str(len(words)), *words]


def test_working_directory_stays(tree: Tree) -> None:
    folder = tree.path / "a" / "b"
    folder.mkdir(parents=True)
    assert retrace(tree, "repro", folder=folder)[0] == str(folder)
    assert not (folder / ".retrace").exists()


@pytest.mark.parametrize(
    ("real", "ours"),
    [
        ("/bin/bash", "bash"),
        ("/opt/Zsh", "zsh"),
        ("fish", "fish"),
        ("/bin/ksh", "sh"),
        ("/usr/bin/wrapper", "sh"),
        ("", "sh"),
        (str(shell.SHELLS / "zsh"), "sh"),
    ],
)
def test_shell_has_the_users_name(tree: Tree, real: str, ours: str) -> None:
    _, given, remembered, *_ = retrace(tree, SHELL=real)
    assert given == str(shell.SHELLS / ours)
    assert remembered == ("" if real.startswith(str(shell.SHELLS)) else real)
    assert os.access(given, os.X_OK)


def test_missing_dvc_is_one_line(tree: Tree) -> None:
    tree.env["PATH"] = "/nowhere"
    printed = tree.run(*RETRACE, "dvc", "repro", code=2)
    expected = "there is no `dvc` in PATH; activate its environment, or install it\n"
    assert printed == expected


def ignored(tree: Tree, folder: Path) -> list[str]:
    """List what git ignores of what tracking writes in `folder`."""
    names = (".retrace/x", "mlflow.db", "mlflow.db-wal", "mlruns/1", "data")
    words = ("git", "-C", str(folder), "check-ignore", *names)
    return subprocess.run(
        words, env=tree.env, capture_output=True, text=True, check=False
    ).stdout.split()


ALL = [".retrace/x", "mlflow.db", "mlflow.db-wal", "mlruns/1"]


def test_git_ignores_what_is_written(tree: Tree) -> None:
    retrace(tree)
    exclude = (tree.path / ".git/info/exclude").read_text()
    assert ignored(tree, tree.path) == ALL
    retrace(tree)
    assert (tree.path / ".git/info/exclude").read_text() == exclude
    assert tree.run("git", "status", "--short") == ""


def test_ignored_files_are_not_excluded(tree: Tree) -> None:
    (tree.path / ".gitignore").write_text(".retrace\nmlflow.db*\n")
    retrace(tree)
    lines = (tree.path / ".git/info/exclude").read_text().splitlines()
    assert [line for line in lines if not line.startswith("#")] == ["/mlruns/"]


def test_subfolder_is_excluded_alone(tree: Tree) -> None:
    folder = tree.path / "a [1]" / "b"
    (folder / ".dvc").mkdir(parents=True)
    retrace(tree, folder=folder)
    assert ignored(tree, folder) == ALL
    assert ignored(tree, tree.path) == []


def test_worktree_is_excluded(tree: Tree) -> None:
    tree.commit("start")
    tree.run("git", "worktree", "add", "--quiet", "tree")
    (tree.path / "tree" / ".dvc").mkdir()
    retrace(tree, folder=tree.path / "tree")
    assert ignored(tree, tree.path / "tree") == ALL


def test_exclude_file_may_lack_newline(tree: Tree) -> None:
    (tree.path / ".git/info/exclude").write_text("mine")
    retrace(tree)
    assert (tree.path / ".git/info/exclude").read_text().startswith("mine\n/.retrace/\n")


@pytest.mark.parametrize("outside", ["git", "dvc"])
def test_nothing_is_written_outside(tree: Tree, tmp_path: Path, outside: str) -> None:
    (tmp_path / ".git").rename(tmp_path / "git")
    if outside == "dvc":
        (tmp_path / "git").rename(tmp_path / ".git")
        (tmp_path / ".dvc").rmdir()
    before = sorted(tmp_path.rglob("*"))
    exclude = next(tmp_path.glob("*git/info/exclude"))
    text = exclude.read_text()
    retrace(tree)
    assert sorted(tmp_path.rglob("*")) == before
    assert exclude.read_text() == text
