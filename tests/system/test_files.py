"""Atomic files."""

import io
import tarfile
from contextlib import suppress
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


def packed(**links: str) -> bytes:
    """Return a tar archive with a file `good`, and with links to these targets."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("good"))
        for name, target in links.items():
            link = tarfile.TarInfo(name)
            link.type = tarfile.SYMTYPE
            link.linkname = target
            archive.addfile(link)
    return content.getvalue()


def test_link_within_is_extracted(tmp_path: Path) -> None:
    files.extract(packed(link="good"), tmp_path)
    assert (tmp_path / "link").readlink() == Path("good")


@pytest.mark.parametrize("target", ["/etc/passwd", "../outside"])
def test_link_to_outside_is_not_extracted(
    tmp_path: Path, target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python refuses the archive; one without filters gets the files that are safe."""
    with suppress(tarfile.TarError):
        files.extract(packed(link=target), tmp_path / "new")
    monkeypatch.delattr(tarfile, "data_filter", raising=False)
    files.extract(packed(link=target), tmp_path / "old")
    assert (tmp_path / "old/good").exists()
    assert not (tmp_path / "old/link").is_symlink()
    assert not (tmp_path / "new/link").is_symlink()
