"""A stage that the wrong Python runs: one line, and what to type."""

import subprocess
import sys
from pathlib import Path

import pytest
from repository import ROOT

STAGE = "import lab\nimport not_installed_here\n"


def run(folder: Path) -> tuple[int, list[str]]:
    """Run a stage that imports a missing package; return its exit code and the lines on stderr."""
    (folder / "stage.py").write_text(STAGE)
    python = Path(sys.base_prefix) / "bin" / f"python{sys.version_info[0]}.{sys.version_info[1]}"
    ended = subprocess.run(
        [python, "-S", "stage.py"],
        cwd=folder,
        env={"PYTHONPATH": str(ROOT / "src")},
        capture_output=True,
        text=True,
        check=False,
    )
    return ended.returncode, ended.stderr.splitlines()


@pytest.mark.parametrize(
    ("file", "content", "command"),
    [
        (".venv/bin/python", "", "`. .venv/bin/activate`"),
        ("Makefile", ".venv/.complete:\n", "`make env && . .venv/bin/activate`"),
    ],
)
def test_wrong_python_is_one_line(tmp_path: Path, file: str, content: str, command: str) -> None:
    (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / file).write_text(content)
    code, lines = run(tmp_path)
    assert (code, len(lines)) == (2, 1)
    assert command in lines[0]
    assert "not_installed_here" in lines[0]


def test_other_projects_keep_the_traceback(tmp_path: Path) -> None:
    code, lines = run(tmp_path)
    assert (code, lines[0]) == (1, "Traceback (most recent call last):")
