"""What git refuses, and the command that mends it."""

import subprocess
from pathlib import Path

import pytest

from retrace.pipeline import git_process
from retrace.pipeline.git_process import Refusal


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a repository with one commit."""
    root = tmp_path / "a repository"
    root.mkdir()
    (root / "a.py").write_text("1\n")
    who = "-c user.name=a -c user.email=a@localhost"
    shell(f"git init --quiet && git add . && git {who} commit --quiet -m start", root)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    return root


def shell(command: str, folder: Path) -> None:
    subprocess.run(["sh", "-c", command], cwd=folder, check=True)


def refusal(folder: Path) -> Refusal:
    """Return the refusal; the folder is in a repository all the same."""
    assert not git_process.is_outside(folder)
    refused = git_process.refusal(folder)
    assert refused
    return refused


def test_nothing_is_refused(repository: Path, tmp_path: Path) -> None:
    assert git_process.refusal(repository) is None
    assert git_process.refusal(tmp_path) is None
    assert git_process.is_outside(tmp_path)
    shell("git symbolic-ref HEAD refs/heads/unborn", repository)
    assert git_process.refusal(repository) is None


def test_other_owner(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")  # as git's own tests do
    cure = f"git config --global --add safe.directory '{repository}'"
    assert refusal(repository).cure == cure


@pytest.mark.parametrize("damage", ["echo wrong >", ": >", "truncate -s 40"])
def test_damaged_index_is_mended(repository: Path, damage: str) -> None:
    shell(f"{damage} .git/index", repository)
    cure = f"rm '{repository}/.git/index' && git reset --quiet"
    assert refusal(repository).cure == cure
    shell(cure, repository)
    assert git_process.refusal(repository) is None


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        ("echo '[core' >> .git/config", ".git/config"),
        ("git config core.repositoryFormatVersion 7", "version"),
        (": > .git/HEAD", ".git is damaged"),
        ("rm -r .git && echo gitdir: /nonexistent > .git", "/nonexistent"),
        ("rm -r .git/objects/*", "HEAD"),
    ],
)
def test_broken_repository_is_none_to_init(repository: Path, damage: str, named: str) -> None:
    shell(damage, repository)
    assert named in refusal(repository).reason


def test_missing_git(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    assert "install it" in refusal(repository).reason
    assert git_process.output("rev-parse", "HEAD") is None
