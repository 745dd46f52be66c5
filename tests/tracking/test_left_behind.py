"""A file that git does not track, in an experiment that runs in a folder of its own."""

import shutil
from pathlib import Path

import pytest
from pipelines import write

from retrace.tracking import left_behind

NO_MODULE = "Traceback:\n  ...\nModuleNotFoundError: No module named 'helpers'\n"


@pytest.fixture
def copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a `--temp` experiment, which is the working directory."""
    own = {"helpers.py": "", "my data/extra.csv": "", "of others.txt": "", "out.bin": ""}
    root = write(tmp_path / "main", own | {".gitignore": "/out.bin\n"})
    copy = root / ".dvc/tmp/exps/tmp1"
    (copy / ".dvc").mkdir(parents=True)
    monkeypatch.setenv("DVC_ROOT", str(root))
    monkeypatch.chdir(copy)
    return copy


@pytest.mark.usefixtures("copy")
@pytest.mark.parametrize(
    ("printed", "added"),
    [
        (NO_MODULE, "helpers.py"),
        ("cannot open file 'my data/extra.csv'", "'my data/extra.csv'"),
        ("helpersX and out.bin", None),
        (NO_MODULE + "a line\n" * left_behind.N_LINES, None),
    ],
)
def test_missing_file_is_named(printed: str, added: str | None) -> None:
    hint = left_behind.hint(printed)
    assert (f"`git add {added}`" in hint) if added else hint == ""


def test_copied_file_is_not_named(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copy(copy.parents[3] / "helpers.py", copy)
    assert left_behind.hint(NO_MODULE) == ""
    monkeypatch.chdir(copy.parents[3])
    (copy / "helpers.py").unlink()
    assert left_behind.hint(NO_MODULE) == ""  # it runs in the repository itself
