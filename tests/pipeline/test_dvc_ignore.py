"""Hashes of folders are those in dvc.lock, whatever .dvcignore files exclude."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from repository import Tree

from retrace.event_log import EventLog
from retrace.pipeline import hashing, lockfile
from retrace.pipeline.workspace import Workspace
from retrace.tracking import header

INSIDE = (
    "a.csv",
    "b.tmp",
    "keep.tmp",
    ".DS_Store",
    "sub/.DS_Store",
    "sub/b.tmp",
    "sub/deep/c.csv",
    "logs/d.log",
    "sub/logs/e.log",
    "__pycache__/f.pyc",
    ".git/config",
    ".hg/store",
    "nested/.dvc/config",
    "nested/data.csv",
    "#hash",
    "with space.csv",
    "tail ",
)
ROOT = "# comment\n.DS_Store\n  *.tmp  \n!keep.tmp\n\n/only/data/a.csv\n"
CASES = {  # the .dvcignore beside the folder
    "none": "",
    "only": "*.csv\n!a.csv\n",  # a negation cannot undo what the root excludes by its path
    "folders": "logs/\n",
    "anchored": "/data/logs\n",
    "star": "data/*\n!data/sub\n",
    "double": "**/deep/**\n",
    "again": "!*.tmp\nwith space.csv\n",
    "class": "data/[ab].*\n\\#hash\n",
}


@pytest.fixture(scope="module", params=["top", "subdir"])
def root(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a repository in which DVC hashed a folder for each case, as dep and as output."""
    top = tmp_path_factory.mktemp("ignore")
    root = top if request.param == "top" else top / "inner"
    for name, ignore in CASES.items():
        for path in INSIDE:
            file = root / name / "data" / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(f"{name} {path}")
        (root / name / ".dvcignore").write_text(ignore)
    (top / ".dvcignore").write_text("*\n")  # above `inner`, it says nothing
    (root / ".dvcignore").write_text(ROOT)
    stages = {
        name: {"cmd": f"cp -r {name}/data {name}/out", "deps": [f"{name}/data"]}
        | {"outs": [f"{name}/out"]}
        for name in CASES
    }
    (root / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}))
    (root / ".dvc").mkdir()
    (root / ".dvc/config").write_text("[core]\n    analytics = false\n")
    Tree(top, top).type("git init --quiet")
    env = os.environ | {"DVC_NO_ANALYTICS": "1"}
    subprocess.run([sys.executable, "-m", "dvc", "repro", "-q"], cwd=root, env=env, check=True)
    return root


def test_hash_is_that_of_dvc_lock(root: Path) -> None:
    for locked in Workspace(root).locked.values():
        hashes = lockfile.md5s(locked.deps) | lockfile.md5s(locked.outs)
        assert {path: hashing.md5(root / path) for path in hashes} == hashes


def test_hash_is_the_same_from_elsewhere(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = hashing.md5(root / "star/data")
    monkeypatch.chdir(root / "star")
    assert hashing.md5(Path("data")) == expected
    assert hashing.md5(Path("../star/data")) == expected


def test_outputs_leave_out_what_dvc_does(root: Path, tmp_path: Path) -> None:
    workspace = Workspace(root)
    log = EventLog(tmp_path, stage="anchored")
    outputs = header.outputs(log, workspace, workspace.pipeline.stages["anchored"])
    listing = Path(root, ".dvc/cache/files/md5")
    md5 = outputs["outs"]["anchored/out"]
    entries = json.loads(hashing.object_path(listing, md5).read_bytes())
    assert outputs["files"] == {
        f"anchored/out/{entry['relpath']}": entry["md5"] for entry in entries
    }


def test_compiled_code_changes_no_identity(root: Path) -> None:
    workspace = Workspace(root)
    hashes = workspace.leaf_hashes(["none/data"])
    (root / "none/data/__pycache__/g.pyc").write_text("compiled")
    assert Workspace(root).leaf_hashes(["none/data"]) == hashes
    (root / "none/data/__pycache__/g.pyc").unlink()


def test_dvc_is_not_imported_in_vain(root: Path) -> None:
    """Only patterns that could match a name need DVC."""
    program = (
        "import sys; from pathlib import Path; from retrace.pipeline import hashing;"
        "hashing.md5(Path(sys.argv[1])); print('dvc' in sys.modules)"
    )

    def imports_dvc(folder: Path) -> str:
        command = [sys.executable, "-c", program, str(folder)]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    (root / "plain/data").mkdir(parents=True, exist_ok=True)
    (root / "plain/data/z.csv").write_text("1")
    assert imports_dvc(root / "plain/data") == "False"
    assert imports_dvc(root / "star/data") == "True"
