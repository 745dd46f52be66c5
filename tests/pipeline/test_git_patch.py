"""Patches of uncommitted changes: byte for byte, whatever a user has configured."""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from retrace.pipeline import git, git_patch

HOSTILE = """\
[user]
    name = ann
    email = ann@localhost
[core]
    quotePath = true
    autocrlf = {autocrlf}
    eol = crlf
    safecrlf = true
    attributesFile = {attributes}
    excludesFile = {ignored}
    pager = false
    fsmonitor = true
    untrackedCache = true
    splitIndex = true
    whitespace = error
    abbrev = 4
[color]
    ui = always
    diff = always
[diff]
    noprefix = true
    mnemonicPrefix = true
    external = false
    renames = copies
    orderFile = /nonexistent
    context = 0
    relative = true
    ignoreSubmodules = all
    wsErrorHighlight = all
[diff "lines"]
    textconv = false
    command = false
[log]
    date = relative
    showSignature = true
    follow = true
[apply]
    whitespace = fix
    ignoreWhitespace = change
[submodule]
    recurse = true
[fetch]
    recurseSubmodules = true
    prune = true
[protocol "file"]
    allow = never
[init]
    templateDir = /nonexistent
    defaultObjectFormat = sha256
[status]
    showUntrackedFiles = no
"""
OF_A_HOOK = {
    "GIT_DIR": "/nonexistent",
    "GIT_INDEX_FILE": "/nonexistent/index",
    "GIT_WORK_TREE": "/",
    "GIT_PREFIX": "folder/",
}
OF_A_SHELL = {
    "GIT_EXTERNAL_DIFF": "false",
    "GIT_DIFF_OPTS": "-u0",
    "GIT_PAGER": "false",
    "GIT_LITERAL_PATHSPECS": "1",
    "GIT_TRACE": "1",
    "GIT_DEFAULT_HASH": "sha256",
    "LANGUAGE": "de",
    "LC_ALL": "de_DE.UTF-8",
}
FIRST = {
    "a b.py": b"1\n2\n3\n4\n",
    "crlf.py": b"x\r\ny\r\n",
    "gone.py": b"gone\n",
    "image.dat": bytes(range(256)),
    "run.sh": b"#!/bin/sh\n",
    "thé.py": b"e\n",
}
SECOND = {
    "a b.py": b"1\n2\nthree \n4",
    "crlf.py": b"x\r\nz\r\nmixed\n",
    "image.dat": bytes(range(255, -1, -1)),
    "thé.py": b"\xff\xfe\n",
    'new "q".py': b"n\r\nm\r\n",
    "moved.py": b"gone\n",
}


def shell(command: str, folder: Path, config: Path | None = None) -> None:
    """Run a command, with the variables for git of no hook and no user, but this configuration."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    config = config or Path(os.environ["GIT_CONFIG_GLOBAL"])
    env["GIT_CONFIG_GLOBAL"] = str(config)
    subprocess.run(["sh", "-c", command], cwd=folder, env=env, check=True)


def write(folder: Path, files: dict[str, bytes]) -> None:
    for name, content in files.items():
        (folder / name).write_bytes(content)


def content(folder: Path) -> dict[str, tuple[bytes, bool]]:
    """Return the files of a repository, and whether each is executable."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {
        path.relative_to(folder).as_posix(): (path.read_bytes(), os.access(path, os.X_OK))
        for path in files
        if ".git" not in path.relative_to(folder).parts
    }


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Return a function that makes a repository with one commit, by a plain user."""
    plain = tmp_path / "plain"
    plain.write_text("[user]\n    name = bob\n    email = bob@localhost\n")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(plain))
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))

    def started(attributes: str = "", folder: str = ".", options: str = "") -> Path:
        root = tmp_path / "repository" / folder
        root.mkdir(parents=True)
        shell(f"git init --quiet {options}", tmp_path / "repository")
        (tmp_path / "repository/.gitattributes").write_text(attributes)
        write(root, FIRST)
        shell("git add --all . :/ && git commit --quiet -m first", root)
        monkeypatch.chdir(root)
        return root

    return started


def hostile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, autocrlf: str = "true") -> None:
    """Give the user another configuration."""
    (tmp_path / "attributes").write_text("*.py diff=lines text eol=crlf ident\n* text=auto\n")
    (tmp_path / "ignored").write_text("*.md\n")
    settings = {name: tmp_path / name for name in ("attributes", "ignored")}
    (tmp_path / "hostile").write_text(HOSTILE.format(autocrlf=autocrlf, **settings))
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "hostile"))


def change(root: Path) -> None:
    write(root, SECOND)
    (root / "gone.py").unlink()
    (root / "run.sh").chmod(0o755)


def patched(root: Path, tmp_path: Path) -> tuple[Path, Path]:
    """Apply the patch of a repository to a clone by another user, and where `verify` does."""
    new, _ = git_patch.untracked_files(root, [":(glob)**/*.py"], [])
    patch = git_patch.uncommitted(root, [], new)
    (tmp_path / "patch").write_bytes(patch)
    tree = tmp_path / "tree"
    tree.mkdir()
    git.init_sharing(tree, root)
    git.check_out(tree, str(git.head_commit()), patch)
    origin = "repository" if root.is_relative_to(tmp_path / "repository") else root.name
    clone = f"git clone --quiet {origin} clone && cd clone && git apply ../patch"
    shell(clone, tmp_path, tmp_path / "plain")
    return tree, tmp_path / "clone"


@pytest.mark.parametrize(
    ("attributes", "autocrlf", "variables"),
    [
        ("", "true", OF_A_HOOK),
        ("", "input", OF_A_SHELL),
        ("* text=auto eol=lf\n*.py diff=lines\n", "true", {}),
    ],
)
def test_patch_is_exact_for_hostile_users(
    start: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    attributes: str,
    autocrlf: str,
    variables: dict[str, str],
) -> None:
    root = start(attributes)
    change(root)
    hostile(tmp_path, monkeypatch, autocrlf)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    for folder in patched(root, tmp_path):
        assert content(folder) == content(tmp_path / "repository")
    assert git.commits_with("3", Path("a b.py")) == [git.head_commit()]
    assert git.commit_message("HEAD")[1] == "first"


def test_patch_has_converted_line_ends(
    start: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a clone with `core.autocrlf`, the work tree has other bytes than the commit."""
    start()
    hostile(tmp_path, monkeypatch)
    shell("git -c protocol.file.allow=always clone -q repository theirs", tmp_path)
    theirs = tmp_path / "theirs"
    assert (theirs / "a b.py").read_bytes() == b"1\r\n2\r\n3\r\n4\r\n"
    monkeypatch.chdir(theirs)
    tree, clone = patched(theirs, tmp_path)
    assert content(tree) == content(theirs) == content(clone)


@pytest.mark.parametrize("options", ["", "--object-format=sha256"])
def test_patch_in_a_folder_of_a_repository(
    start: Callable[..., Path], tmp_path: Path, options: str
) -> None:
    root = start(folder="projects/digits", options=options)
    change(root)
    for folder in patched(root, tmp_path):
        assert content(folder) == content(tmp_path / "repository")


def test_flags_hide_no_change(start: Callable[..., Path], tmp_path: Path) -> None:
    root = start()
    shell("git update-index --assume-unchanged 'a b.py'", root)
    shell("git update-index --skip-worktree image.dat", root)
    change(root)
    for folder in patched(root, tmp_path):
        assert content(folder) == content(root)


def test_patch_before_the_first_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    shell("git init --quiet", tmp_path)
    write(tmp_path, FIRST)
    shell("git add run.sh", tmp_path)
    patch = git_patch.uncommitted(tmp_path, [], ["a b.py"])
    assert patch.count(b"new file mode") == 2


def test_user_ignores_are_told_apart(
    start: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = start()
    (tmp_path / "ignored").write_text("models/\nmlruns/\n")
    shell(f"git config core.excludesFile {tmp_path}/ignored", root)
    (root / ".git/info/exclude").write_text("local.py\n")
    (root / ".gitignore").write_text("never.py\n")
    for name in ("models", "mlruns", "venv/lib"):
        (root / name).mkdir(parents=True)
    (root / "venv/pyvenv.cfg").touch()
    names = ("models/net.py", "mlruns/old.py", "venv/lib/a.py", "local.py", "never.py", "new.py")
    write(root, dict.fromkeys(names, b"1\n"))
    new, hidden = git_patch.untracked_files(root, [":(glob)**/*.py"], [])
    assert (new, hidden) == ({"new.py"}, {"models/net.py", "local.py"})


def test_changes_in_a_submodule_are_named(start: Callable[..., Path], tmp_path: Path) -> None:
    root = start()
    add = "git -c protocol.file.allow=always submodule --quiet add"
    shell("git clone --quiet repository other", tmp_path)
    shell(f"{add} {tmp_path}/other sub && git commit -qm sub", root)
    assert git_patch.changed_submodules(root) == []
    (root / "sub/a b.py").write_text("other\n")
    assert git_patch.changed_submodules(root) == ["sub"]
    shell("git commit --quiet --all -m inside", root / "sub")
    assert git_patch.changed_submodules(root) == []
    assert b"Subproject" in git_patch.uncommitted(root, [], [])
