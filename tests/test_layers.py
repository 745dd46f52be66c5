"""The import-linter contracts and ruff's banned imports: an example breaks each."""

import shutil
import subprocess
from pathlib import Path

import pytest
from repository import BIN, ROOT


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of the code, to be broken."""
    shutil.copytree(ROOT / "src", tmp_path / "src")
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def output(folder: Path, *command: str) -> str:
    env = {"PYTHONPATH": "src", "PATH": str(BIN), "NO_COLOR": "1"}
    ended = subprocess.run(
        command, cwd=folder, env=env, capture_output=True, text=True, check=False
    )
    return ended.stdout


def lint_imports(folder: Path) -> str:
    """Return what import-linter prints, in one line."""
    return " ".join(output(folder, "lint-imports", "--no-cache").split())


def append(file: Path, line: str) -> None:
    with file.open("a", encoding="utf-8") as text:
        text.write(f"\n{line}\n")


@pytest.mark.parametrize(
    ("importer", "line", "imported"),
    [
        ("retrace.settings", "from retrace.store import runs", "retrace.store.runs"),
        ("lab.paths", "from lab.training import loop", "lab.training.loop"),
        ("retrace.checkpoint", "import torch", "torch"),
        ("retrace.system.files", "from lab import shapes", "lab.shapes"),
    ],
)
def test_contract_breaks(copy: Path, importer: str, line: str, imported: str) -> None:
    append(copy / "src" / Path(*importer.split(".")).with_suffix(".py"), line)
    assert f"{importer} -> {imported}" in lint_imports(copy)


@pytest.mark.parametrize("package", ["lab", "retrace"])
def test_module_without_a_layer_breaks_a_contract(copy: Path, package: str) -> None:
    (copy / "src" / package / "helpers.py").touch()
    assert f"{package}.helpers" in lint_imports(copy)


@pytest.mark.parametrize(
    ("file", "line", "rule"),
    [
        ("lab/training/loop.py", "import mlflow", "TID251"),
        ("lab/training/loop.py", "from matplotlib.figure import Figure", "TID251"),
        ("lab/data/split.py", "import yaml", "TID251"),
        ("lab/params.py", "import ruamel.yaml", "TID251"),
        ("retrace/compare/page.py", "import mlflow", "TID251"),
        ("retrace/event_log.py", "import pickle\npickle.loads(data)", "S301"),
        ("lab/models/classifier.py", "weights = torch.load(path)", "TID251"),
    ],
)
def test_banned_import_is_an_error(copy: Path, file: str, line: str, rule: str) -> None:
    check = ("ruff", "check", "--no-cache", "--output-format=concise", f"src/{file}")
    assert rule not in output(copy, *check)
    append(copy / "src" / file, line)
    assert rule in output(copy, *check)
