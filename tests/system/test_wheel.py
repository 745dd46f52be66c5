"""retrace's wheel in an environment of its own, beside a project with another DVC, or no Python.

Packages come from uv's cache or from the package index.
"""

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from faults.servers import until
from repository import BIN, ROOT, Tree

from retrace import event_log

pytestmark = [pytest.mark.long, pytest.mark.xdist_group("wheel")]

HEAVY = {"torch", "torchvision", "scikit-learn", "matplotlib", "scipy", "optuna", "mlflow"}
STAGES = """
stages:
  prepare:
    cmd: echo 1 > data.txt
    deps: [raw.txt]
    outs: [data.txt]
  fit:
    cmd: sed 's/lr. /{"loss":/; s/$/}/' params.yaml > loss.json
    deps: [data.txt]
    params: [lr]
    metrics: [loss.json: {cache: false}]
"""


def uv(*words: str | Path) -> str:
    command = [BIN / "uv", *words]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout


def environment(folder: Path, *packages: str | Path) -> Path:
    """Make an environment with these packages; return its programs' folder."""
    uv("venv", "--python", BIN / "python", folder)
    uv("pip", "install", "--python", folder / "bin/python", *packages)
    return folder / "bin"


@pytest.fixture(scope="session")
def own(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of an environment with nothing but the wheel."""
    folder = tmp_path_factory.mktemp("own")
    uv("build", "--wheel", "--offline", "--no-build-isolation", "--out-dir", folder, ROOT)
    (wheel,) = folder.glob("*.whl")
    pins = ROOT / "requirements.txt"
    return environment(folder / "venv", "--no-verify-hashes", "--constraint", pins, wheel)


@pytest.fixture
def project(tmp_path: Path, own: Path) -> Callable[[Path], Tree]:
    """A function that makes a repository with two stages whose DVC is in a folder of programs."""

    def make(programs: Path) -> Tree:
        (tmp_path / "bin").mkdir()
        (tmp_path / "bin/retrace").symlink_to(own / "retrace")
        (tmp_path / "bin/dvc").symlink_to(programs / "dvc")
        tree = Tree(tmp_path / "project", tmp_path)
        tree.path.mkdir()
        tree.env["PATH"] = f"{tmp_path / 'bin'}{os.pathsep}/usr/bin{os.pathsep}/bin"
        tree.env |= {"HOME": str(tmp_path), "GIT_CONFIG_GLOBAL": str(tmp_path / ".gitconfig")}
        tree.type("git config --global user.name me; git config --global user.email me@localhost")
        for name, text in {"dvc.yaml": STAGES, "params.yaml": "lr: 0.1\n", "raw.txt": ""}.items():
            (tree.path / name).write_text(text)
        tree.type("git init --quiet && dvc init --quiet")
        tree.commit("start")
        return tree

    return make


def attempts(tree: Tree, stage: str) -> list[dict[str, object]]:
    """Return how each attempt at a stage ended, oldest first."""
    paths = (tree.path / ".retrace/journal").rglob(f"*-{stage}-*.jsonl")
    logs = sorted(map(event_log.read, paths), key=lambda events: events[0]["time"])
    return [dict(end) for log in logs if (end := event_log.end_of(log))]


def test_wheel_is_small(own: Path) -> None:
    listed = json.loads(uv("pip", "list", "--format=json", "--python", own / "python"))
    names = {package["name"] for package in listed}
    assert names >= {"retrace", "dvc", "mlflow-skinny", "sqlalchemy"}
    assert names.isdisjoint(HEAVY)
    code = "import lab"
    ended = subprocess.run([own / "python", "-c", code], cwd=own, capture_output=True, check=False)
    assert b"No module named 'lab'" in ended.stderr


def test_import_is_quick(own: Path) -> None:
    code = "import time; t = time.process_time(); import retrace; print(time.process_time() - t)"
    command = [own / "python", "-c", code]
    took = [float(subprocess.check_output(command, cwd=own)) for _ in range(5)]
    assert min(took) < 0.1


@pytest.mark.parametrize(
    ("command", "extra"),
    [
        ("compare HEAD workspace", "compare"),
        ("sweep lr=0.1,0.2 --metric val_loss", "sweep"),
        ("ui", "ui"),
        ("cluster status", "cluster"),
    ],
)
def test_missing_extra_is_named(
    own: Path, project: Callable[[Path], Tree], command: str, extra: str
) -> None:
    tree = project(own)
    printed = tree.run("retrace", *command.split(), code=2)
    assert f"pip install 'retrace[{extra}]'" in printed
    assert printed.count("\n") == 1


@pytest.mark.parametrize("version", ["==3.50.0", "==3.60.0", ""])
def test_other_dvc_is_tracked(
    tmp_path: Path, project: Callable[[Path], Tree], version: str
) -> None:
    """DVC starts the commands of stages with SHELL, in the workspace, `--temp` and the queue.

    An old DVC needs a pathspec of its time: 1.0 no longer has what it imports.
    """
    other = ["pathspec<1"] if version else []
    tree = project(environment(tmp_path / "dvc", f"dvc{version}", *other))
    tree.type("retrace dvc repro")
    tree.commit("reproduced")
    tree.type("retrace dvc exp run --name here -S lr=0.2")
    tree.type("retrace dvc exp run --temp --name aside -S lr=0.3")
    tree.type("dvc exp run --queue --name queued -S lr=0.4 && retrace dvc queue start")
    until(lambda: len(attempts(tree, "fit")) == 4)
    assert {end["status"] for end in attempts(tree, "fit")} == {"FINISHED"}
    assert [end["status"] for end in attempts(tree, "prepare")][:1] == ["FINISHED"]
    until(lambda: "Success" in tree.queue())
    tree.type("retrace sync")
    rows = json.loads(tree.type("retrace leaderboard --metric loss --json"))
    assert "0.4" in json.dumps(rows)
