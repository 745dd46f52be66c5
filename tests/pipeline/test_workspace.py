"""The state of a folder with a pipeline: its identity, its uncommitted changes."""

from pathlib import Path

import pytest
from repository import Tree

from retrace.pipeline.workspace import Workspace

FILES = {
    "dvc.yaml": (
        "stages:\n"
        "  fit:\n"
        "    cmd: python fit.py\n"
        "    deps: [fit.py, data]\n"
        "    params: [lr, fold, train.toml: [batch]]\n"
        "    metrics: [scores.json: {cache: false}]\n"
    ),
    "params.yaml": "lr: 0.1\nfold: 0\nunused: 1\n",
    "train.toml": "batch = 4\n",
    "fit.py": "1\n",
    ".gitignore": "*.tmp\n",
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Return a repository with one commit, whose data git does not track."""
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    tree = Tree(tmp_path, tmp_path)
    tree.type("git init --quiet")
    tree.commit("start")
    (tmp_path / "data").mkdir()
    (tmp_path / "data/1.csv").write_text("1\n")
    return tmp_path


def replace(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


def test_params_have_names_of_dvc(root: Path) -> None:
    workspace = Workspace(root)
    assert workspace.params(*workspace.pipeline.stages.values()) == {
        "lr": 0.1,
        "fold": 0,
        "train.toml:batch": 4,
    }


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("dvc.yaml", "python fit.py", "python -O fit.py"),
        ("params.yaml", "lr: 0.1", "lr: 0.2"),
        ("train.toml", "4", "5"),
        ("fit.py", "1", "2"),
        ("data/1.csv", "1", "2"),
    ],
)
def test_key_changes_with(root: Path, file: str, old: str, new: str) -> None:
    key = Workspace(root).key()
    replace(root / file, old, new)
    assert Workspace(root).key() != key


def test_key_ignores_what_dvc_ignores(root: Path) -> None:
    key = Workspace(root).key()
    replace(root / "params.yaml", "unused: 1", "unused: 2")
    replace(root / "dvc.yaml", "stages:", "# a comment\nstages:")
    (root / "other.py").write_text("1\n")
    assert Workspace(root).key() == key


def test_key_without_a_parameter(root: Path) -> None:
    key = Workspace(root).key(without={"fold"})
    replace(root / "params.yaml", "fold: 0", "fold: 1")
    assert Workspace(root).key(without={"fold"}) == key


def test_patch_has_code_and_no_data(root: Path) -> None:
    assert Workspace(root).changes() == b""
    replace(root / "fit.py", "1", "2")
    for name in ("helper.py", "ignored.tmp", "dvc.lock", "scores.json", "notes.txt"):
        (root / name).write_text("new\n")
    lines = Workspace(root).changes().decode().splitlines()
    changed = [line.rpartition(" b/")[2] for line in lines if line.startswith("diff --git")]
    assert changed == ["fit.py", "helper.py"]
