"""Calls of git: what they say whatever a user has configured, and where git has nothing to say."""

import os
import subprocess
from pathlib import Path

import pytest
from repository import ROOT

from retrace.errors import RetraceError
from retrace.pipeline import git, git_patch, git_process

HOSTILE = """\
[user]
    name = ann
    email = ann@localhost
[log]
    showSignature = true
    follow = true
    date = relative
[color]
    ui = always
[diff]
    noprefix = true
    external = false
[i18n]
    logOutputEncoding = latin-1
[format]
    pretty = full
[core]
    quotePath = true
    hooksPath = {hooks}
"""


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository of a user whose configuration changes what git prints."""
    hooks = tmp_path / "hooks"
    folder = tmp_path / "repository"
    hooks.mkdir()
    folder.mkdir()
    (hooks / "post-checkout").write_text("#!/bin/sh\necho hook; exit 1\n")
    (hooks / "post-checkout").chmod(0o755)
    config = tmp_path / "config"
    config.write_text(HOSTILE.format(hooks=hooks))
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(config))
    monkeypatch.chdir(folder)
    Path("src").mkdir()
    Path("src/a b.py").write_text("1\n")
    Path("params.yaml").write_text("lr: 1\n")
    subprocess.run(["git", "init", "--quiet"], check=True)
    commit("thé first")
    return folder


def commit(message: str) -> str:
    subprocess.run(["git", "add", "--all"], check=True)
    subprocess.run(["git", "commit", "--quiet", "--message", message], check=True)
    return str(git.head_commit())


def test_messages_are_as_written(repository: Path) -> None:
    date, subject = git.commit_message("HEAD")
    assert (len(date), subject) == (10, "thé first")
    assert git.commit_time("HEAD") > 1e12


def test_last_change_goes_back_to_the_file(repository: Path) -> None:
    first = git.head_commit()
    Path("src/a b.py").write_text("2\n")
    second = commit("second")
    assert git.last_change("HEAD", Path("params.yaml")) == first
    assert git.last_change("HEAD", Path("params.yaml"), Path("src")) == second
    assert git.last_change("HEAD", Path("none")) is None
    assert git.commits_with("2", Path("src/a b.py")) == [second]


def test_file_of_a_commit(repository: Path) -> None:
    assert git.read_file("HEAD", Path("params.yaml")) == b"lr: 1\n"
    assert git.read_file("HEAD", Path("none")) is None


def test_export_has_what_the_commit_has(repository: Path) -> None:
    with git.export("HEAD", "src", "params.yaml") as folder:
        assert (folder / "src/a b.py").read_text() == "1\n"
        assert (folder / "params.yaml").exists()
    with git.export("HEAD", "none") as folder:
        assert list(folder.iterdir()) == []
    with git.export("HEAD", "src/a b.py") as folder:
        assert [file.name for file in folder.rglob("*.*")] == ["a b.py"]


def test_patch_checks_out_elsewhere(repository: Path, tmp_path: Path) -> None:
    Path("src/a b.py").write_text("2\n")
    Path("src/new.py").write_bytes(b"\xff\n")
    Path("notes.txt").write_text("not a dependency\n")
    patch = git_patch.uncommitted(repository, outs=[], new=["src/new.py"])
    assert b"notes.txt" not in patch
    tree = tmp_path / "tree"
    tree.mkdir()
    git.init_sharing(tree, repository)
    git.check_out(tree, str(git.head_commit()), patch)
    assert (tree / "src/a b.py").read_text() == "2\n"
    assert (tree / "src/new.py").read_bytes() == b"\xff\n"
    git.check_out(tree, str(git.head_commit()))
    assert not (tree / "src/new.py").exists()


def test_sharing_repository_has_the_identity(repository: Path, tmp_path: Path) -> None:
    git.run("config", "user.email", "of.this.repository@example.org", folder=repository)
    tree = tmp_path / "tree"
    tree.mkdir()
    git.init_sharing(tree, repository)
    email = git.run("config", "--local", "user.email", folder=tree)
    assert email == b"of.this.repository@example.org\n"


def test_experiment_is_fetched(repository: Path, tmp_path: Path) -> None:
    head = str(git.head_commit())
    target = tmp_path / "target"
    target.mkdir()
    git.run("init", "--quiet", folder=target)
    git.run("update-ref", f"refs/exps/{head[:2]}/{head[2:]}/fast", "HEAD")
    (experiment,) = git.experiments()
    assert (experiment.name, experiment.baseline, experiment.rev) == ("fast", head, head)
    assert git.fetch_experiment("fast", repository, target) == head
    assert git.fetch_experiment("slow", repository, target) is None


def test_outside_a_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert git.head_commit() is None
    assert git.experiments() == []
    assert git.untracked(["none"]) == set()
    assert git_process.is_outside(tmp_path)
    assert git_process.refusal(tmp_path) is None
    assert git.commit_message("HEAD") == ("", "")
    with pytest.raises(RetraceError, match="git rev-parse .* 128: fatal: not a git repository"):
        git.run("rev-parse", "HEAD")


def test_patch_has_change_within_second(repository: Path) -> None:
    """DVC edits parameters in the second in which it writes the index."""
    git.run("config", "core.trustctime", "false")
    params = Path("params.yaml")
    params.write_text("lr: 0\n")
    second = 10**9
    os.utime(params, (second, second))
    commit("old")
    params.write_text("lr: 2\n")
    for file in (params, Path(".git/index")):
        os.utime(file, (second, second))
    assert b"+lr: 2" in git_patch.uncommitted(repository, outs=[], new=[])


def test_patch_leaves_outputs_and_the_index(repository: Path) -> None:
    Path("params.yaml").write_text("lr: 2\n")
    Path("src/a b.py").write_text("2\n")
    git.run("add", "src")
    index = Path(".git/index").read_bytes()
    patch = git_patch.uncommitted(repository, outs=["params.yaml"], new=[])
    assert b"a b.py" in patch
    assert b"params.yaml" not in patch
    assert Path(".git/index").read_bytes() == index


@pytest.mark.parametrize("options", ["--depth=1", "--filter=blob:none", "--filter=tree:0"])
def test_incomplete_clones_are_checked_out(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: str
) -> None:
    first = str(git.head_commit())
    Path("src/a b.py").write_text("2\n")
    last = commit("second")
    git.run("config", "uploadpack.allowFilter", "true")
    git.run("config", "uploadpack.allowAnySHA1InWant", "true")
    clone = tmp_path / "clone"
    git.run("clone", "--quiet", options, f"file://{repository}", str(clone))
    monkeypatch.chdir(clone)
    tree = tmp_path / "tree"
    tree.mkdir()
    git.init_sharing(tree, clone)
    git.check_out(tree, last if options == "--depth=1" else first)
    assert (tree / "src/a b.py").read_text() == ("2\n" if options == "--depth=1" else "1\n")
    git.run("update-ref", f"refs/exps/{last[:2]}/{last[2:]}/fast", "HEAD", folder=tree)
    assert git.fetch_experiment("fast", tree, clone) == git.experiments()[0].rev


def test_clone_has_the_bytes_of_this_repository(tmp_path: Path) -> None:
    """Stages are identified by the bytes of their code: line ends must be those of the commit."""
    options = ("-c", "core.autocrlf=true", "-c", "core.eol=crlf", "--depth=1", "--quiet")
    subprocess.run(["git", "clone", *options, f"file://{ROOT}", tmp_path / "clone"], check=True)
    assert (tmp_path / "clone/.gitattributes").exists()
    for name in ("dvc.yaml", "params.yaml", "pyproject.toml"):
        assert b"\r\n" not in (tmp_path / "clone" / name).read_bytes()


def test_tracked_files_and_folders(repository: Path) -> None:
    assert git.untracked(["params.yaml", "src", "none"]) == {"none"}
    Path("src/new.py").write_text("1\n")
    assert git.untracked(["params.yaml", "src", "src/new.py"]) == {"src", "src/new.py"}
    assert git.list_files("HEAD")["params.yaml"] == 6
