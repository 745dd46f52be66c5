"""Atomic files."""

from pathlib import Path

import pytest

from retrace.system import files


def test_atomic_file_appears_complete(tmp_path: Path) -> None:
    target = tmp_path / "new" / "file"
    with files.atomic(target) as unfinished:
        unfinished.write_text("all of it")
        assert not target.exists()
    assert target.read_text() == "all of it"
    assert list(target.parent.iterdir()) == [target]


def test_failure_leaves_the_old_file(tmp_path: Path) -> None:
    target = tmp_path / "file"
    target.write_text("old")
    with pytest.raises(OSError, match="disk full"), files.atomic(target) as unfinished:
        unfinished.write_text("ne")
        raise OSError("disk full")
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]
