"""The state of a folder with a pipeline: its identity, its uncommitted changes."""

from pathlib import Path
from typing import Any

import pipelines
import pytest
import yaml
from repository import Tree

from retrace.pipeline import hashing
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


def test_patch_has_code_that_the_user_ignores(root: Path) -> None:
    """The user's own ignore file hides code; only what a stage runs, imports or reads counts."""
    (root / ".git/info/exclude").write_text("models/\nother/\ndata/\nextra.toml\n")
    replace(root / "dvc.yaml", "train.toml: [batch]", "extra.toml: [batch]")
    replace(root / "fit.py", "1", "import models.net")
    for name in ("models", "other", "data/venv"):
        (root / name).mkdir()
    (root / "data/venv/pyvenv.cfg").touch()
    for name in ("models/net.py", "other/a.py", "data/a.py", "data/venv/b.py", "x.tmp"):
        (root / name).write_text("new\n")
    (root / "extra.toml").write_text("batch = 4\n")
    (root / "src.tmp").write_text("ignored by the repository\n")
    lines = Workspace(root).changes().decode().splitlines()
    changed = {line.partition(" b/")[2] for line in lines if line.startswith("diff ")}
    assert changed == {"dvc.yaml", "fit.py", "models/net.py", "data/a.py", "extra.toml"}


def test_patch_has_a_new_program(root: Path) -> None:
    replace(root / "dvc.yaml", "python fit.py", "Rscript fit.R")
    (root / "fit.R").write_text("1\n")
    (root / "other.R").write_text("1\n")
    changes = Workspace(root).changes()
    assert b"b/fit.R" in changes
    assert b"b/other.R" not in changes


def test_patch_has_new_code_beside_wdir(root: Path) -> None:
    """Without `wdir`, the program would be `../fit.py`."""
    replace(root / "dvc.yaml", "python fit.py", "/usr/bin/env python ../fit.py")
    replace(root / "dvc.yaml", "  fit:\n", "  fit:\n    wdir: data\n")
    replace(root / "dvc.yaml", "[fit.py, data]", "[../fit.py]")
    replace(root / "dvc.yaml", "train.toml:", "../train.toml:")
    (root / "helper.py").write_text("new\n")
    workspace = Workspace(root)
    assert workspace.program(workspace.pipeline.stages["fit"]) == "fit.py"
    assert "b/helper.py" in workspace.changes().decode()


COMPARED: dict[str, dict[str, Any]] = {
    "fit": {"cmd": "fit", "metrics": ["fit.json"]},
    "test": {"cmd": "test", "deps": ["fit.json"], "metrics": ["test.json"]},
    "beside": {"cmd": "beside", "deps": ["x.csv"], "metrics": ["beside.json"]},
    "each@1": {"cmd": "each", "metrics": ["each.json"]},
}


def lock(root: Path, *names: str) -> None:
    """Write dvc.lock as DVC does, with these stages."""

    def hashed(path: str) -> dict[str, str]:
        return {"path": path, "hash": "md5", "md5": hashing.md5(root / path)}

    stages: dict[str, Any] = {
        name: {
            "cmd": name,
            "deps": list(map(hashed, COMPARED[name].get("deps", []))),
            "outs": list(map(hashed, COMPARED[name]["metrics"])),
        }
        for name in names
    }
    (root / "dvc.lock").write_text(yaml.safe_dump({"schema": "2.0", "stages": stages}))


@pytest.fixture
def compared(tmp_path: Path) -> Path:
    """Return a folder whose stages have metrics of the same names."""
    stages = {name: stage for name, stage in COMPARED.items() if name != "each@1"}
    stages["each"] = {"foreach": ["1"], "do": COMPARED["each@1"]}
    files = {f"{name}.json": f'{{"acc": {n}}}' for n, name in enumerate(stages)}
    pipelines.write(
        tmp_path, files | {"dvc.yaml": yaml.safe_dump({"stages": stages}, sort_keys=False)}
    )
    (tmp_path / "x.csv").write_text("1")
    (tmp_path / "fit.json").write_text('{"acc": 0, "loss": 5}')
    return tmp_path


def test_equal_metrics_have_names_of_stages(compared: Path) -> None:
    lock(compared, "fit", "test", "beside")
    assert Workspace(compared).metrics() == {
        "acc": 0,
        "loss": 5,
        "test/acc": 1,
        "beside/acc": 2,
    }
    stages = Workspace(compared).pipeline.stages
    for name, named in (("fit", "acc"), ("test", "test/acc"), ("each@1", "each@1/acc")):
        assert Workspace(compared).summary(stages[name], {"acc": 7}) == {named: 7}


def test_other_metrics_keep_their_names(compared: Path) -> None:
    (compared / "fit.json").write_text('{"loss": 5}')
    stage = Workspace(compared).pipeline.stages["test"]
    assert Workspace(compared).summary(stage, {"acc": 7, "f1": 8}) == {"acc": 7, "f1": 8}


def test_stage_that_ran_before_is_renamed(compared: Path) -> None:
    lock(compared, "test", "beside")
    fit = Workspace(compared).pipeline.stages["fit"]
    assert Workspace(compared).shared(fit, {"acc": 7}) == {"test/acc": 1, "beside/acc": 2}
    assert Workspace(compared).shared(fit, {"loss": 7}) == {}
    (compared / "fit.json").write_text('{"acc": 7}')  # `test` will run again
    assert Workspace(compared).shared(fit, {"acc": 7}) == {"beside/acc": 2}
    (compared / "beside.json").write_text('{"acc": 3}')  # not what dvc.lock records
    assert Workspace(compared).shared(fit, {"acc": 7}) == {}
