"""DVC looks for garbage rarely, where retrace is installed, and no other program does."""

import subprocess
import sys
from pathlib import Path

import pytest

SAYS = "import gc; print(gc.get_threshold()[0])"


@pytest.mark.parametrize(("name", "is_dvc"), [("dvc", True), ("other", False), ("dvcs", False)])
@pytest.mark.parametrize("as_module", [True, False])
def test_only_dvc_collects_garbage_rarely(tmp_path: Path, name: str, *, is_dvc: bool, as_module: bool) -> None:
    program = tmp_path / f"{name}{'.py' if as_module else ''}"
    program.write_text(SAYS, encoding="utf-8")
    command = [sys.executable, *(["-m", name] if as_module else [str(program)]), "dvc", "/a/dvc"]
    said = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert (said == "1000000\n") is is_dvc


def test_dvc_does_no_round_of_collection_at_its_end(tmp_path: Path) -> None:
    """What is in a cycle then stays as it is: only its finalizer would tell."""
    says = "class Told:\n    def __del__(self): print('collected')\n\ncycle = Told()\ncycle.itself = cycle\ndel cycle\n"
    for name, ends_with in (("dvc", ""), ("other", "collected\n")):
        (tmp_path / name).write_text(says, encoding="utf-8")
        ended = subprocess.run([sys.executable, name], cwd=tmp_path, capture_output=True, text=True, check=True)
        assert ended.stdout == ends_with
