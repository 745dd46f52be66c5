"""The files that a stage's Python program imports."""

from pathlib import Path

import pytest

from retrace.pipeline import program
from retrace.pipeline.definition import Stage

FILES = {
    "src/fit.py": "import helpers, pandas\nfrom app import net\nimport retrace",
    "src/helpers.py": "def late():\n    from more.deep import value",
    "src/more/__init__.py": '"""Only a docstring."""',
    "src/more/deep.py": "from . import beside\nfrom ..helpers import late",
    "src/more/beside.py": "",
    "lib/app/__init__.py": "from .net import Net",
    "lib/app/net.py": "import mlflow\nNet = 1",
    "src/retrace/__init__.py": "x = 1",
    "pandas.py": "x = 1",
    "src/broken.py": "def",
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def imported(root: Path, command: str, folder: str = ".") -> set[str]:
    path = (Path(folder) / command.rsplit(maxsplit=1)[-1]).as_posix()
    return program.imported(root, Stage("fit", (command,), folder), path)


def test_siblings_and_relative_imports_are_found(root: Path) -> None:
    assert imported(root, "python src/fit.py") == {"src/helpers.py", "src/more/deep.py"}


def test_pythonpath_of_the_command_is_searched(root: Path) -> None:
    found = imported(root, "PYTHONPATH=../lib python fit.py", folder="src")
    assert found >= {"lib/app/__init__.py", "lib/app/net.py", "src/helpers.py"}
    assert program.libraries([root / "lib/app/net.py"]) == {"mlflow"}


def test_only_packages_in_src_count_as_installed(root: Path) -> None:
    (root / "run.py").write_text("import helpers, broken")
    assert imported(root, "python run.py") == set()
    (root / "run.py").write_text("import more.deep")
    assert imported(root, "python run.py") == {"src/more/deep.py", "src/helpers.py"}


@pytest.mark.parametrize("text", ["def", "\0", "import nothing.here", "from . import nothing"])
def test_unreadable_programs_import_nothing(root: Path, text: str) -> None:
    (root / "odd.py").write_text(text)
    assert imported(root, "python odd.py") == set()
