"""Where dvc.yaml and `.dvc` files are, with and without git."""

from pathlib import Path

import pytest
from pipelines import write

from retrace.pipeline import dvc_files, git

FILES = {
    ".dvcignore": "",
    ".hidden/a.dvc": "",
    "a b/é.dvc": "",
    "dvc.yaml": "",
    "notes.txt": "",
    "sub/.dvcignore": "",
    "sub/dvc.yaml": "",
    "sub/dvc.yaml.txt": "",
    ".dvc/tmp/exps/copy/dvc.yaml": "",
    "nested/.dvc/config": "",
    "nested/dvc.yaml": "",
}
FOUND = dvc_files.Files(
    pipelines=("dvc.yaml", "nested/dvc.yaml", "sub/dvc.yaml"),
    sources=(".hidden/a.dvc", "a b/é.dvc"),
    ignores=(".dvcignore", "sub/.dvcignore"),
    repositories=("nested",),
)


def test_git_lists_files(tmp_path: Path) -> None:
    assert dvc_files.find(write(tmp_path, FILES)) == FOUND


@pytest.mark.parametrize("config", ["", "[core]\n    no_scm = True\n"])
def test_files_are_found_without_git(tmp_path: Path, config: str) -> None:
    write(tmp_path, {**FILES, ".gitignore": "sub/" if config else "", ".dvc/config": config})
    if not config:
        (tmp_path / ".git").rename(tmp_path / "git")
    assert dvc_files.find(tmp_path) == FOUND


def test_tracked_file_may_be_ignored(tmp_path: Path) -> None:
    """DVC asks what the patterns say, not whether git tracks the file."""
    names = ("data/a.dvc", "b.dvc", "gone.dvc", "new.dvc")
    write(tmp_path, {".gitignore": "data/\n", **dict.fromkeys(names, "")})
    git.run("add", "--force", *names[:3], folder=tmp_path)
    (tmp_path / "gone.dvc").unlink()
    assert dvc_files.find(tmp_path).sources == ("b.dvc", "new.dvc")


def test_submodule_is_searched(tmp_path: Path) -> None:
    write(
        tmp_path, {".gitmodules": '[submodule "m"]\n\tpath = lib/m\n[submodule "n"]\n\tpath = n\n'}
    )
    write(tmp_path / "lib" / "m", {"x/dvc.yaml": "", ".dvc/config": ""})
    files = dvc_files.find(tmp_path)
    assert files.pipelines == ("lib/m/x/dvc.yaml",)
    assert files.repositories == ("lib/m",)


def test_subdir_has_its_own_files(tmp_path: Path) -> None:
    root = write(tmp_path, {"dvc.yaml": "", "p/.dvc/config": "", "p/dvc.yaml": "", "p/q/a.dvc": ""})
    files = dvc_files.find(root / "p")
    assert files == dvc_files.Files(pipelines=("dvc.yaml",), sources=("q/a.dvc",))


def test_index_of_git_is_left_alone(tmp_path: Path) -> None:
    write(tmp_path, FILES)
    git.run("add", "--all", folder=tmp_path)
    before = (tmp_path / ".git" / "index").read_bytes()
    dvc_files.find(tmp_path)
    assert (tmp_path / ".git" / "index").read_bytes() == before
    assert not (tmp_path / ".dvc" / "tmp" / "no-index").exists()
