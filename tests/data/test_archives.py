"""Archives in data/images: read as if they were unpacked there, and safe to read."""

import io
import os
import stat
import tarfile
import zipfile
from pathlib import Path

import pytest
from images import GREEN, PACKS, RED, by_name, encoded, plain, put, read, zipped

from lab import paths
from lab.data import archives
from lab.data.datasets import image_folder
from retrace.errors import DataError

FILES = {
    "cat/a.png": encoded(plain(colour=RED)),
    "dog/2024/b.png": encoded(plain(colour=GREEN)),
    "dog/ä $1,\n2 '\".png": encoded(plain(colour=RED)),
    "dog/.hidden": b"",
    "__MACOSX/cat/._a.png": b"of a tool",
}


def refused() -> list[str]:
    """Return the lines of the error that packing raises."""
    with pytest.raises(DataError) as raised:
        image_folder.collect(paths.RAW)
    return [line.strip() for line in str(raised.value).splitlines()]


@pytest.mark.parametrize("name", PACKS)
def test_archive_equals_folder(folder: Path, name: str) -> None:
    for file, content in FILES.items():
        put(file, content)
    expected = by_name(read().train)
    for file in FILES:
        (paths.IMAGES / file).unlink()
    backwards = dict(reversed(FILES.items()))
    put(name, PACKS[name](backwards))
    assert by_name(read().train) == expected
    assert len(expected) == 3
    assert sorted(path.name for path in paths.RAW.iterdir()) == ["images.zip"]
    assert image_folder.collect(paths.RAW) == f"data/images/{name}, 3 images of 2 classes"


def test_folder_around_all_is_left_out(folder: Path) -> None:
    put("photos.zip", zipped({f"photos/{name}": content for name, content in FILES.items()}))
    assert read().train.class_names == ("cat", "dog")
    around = {f"train/{name}": content for name, content in FILES.items()}
    put("photos.zip", zipped(around))
    assert read().train.name(0).startswith("data/images/train/cat")


def test_readme_of_an_archive_is_left_out(folder: Path) -> None:
    put("README.md", b"ours")
    put("photos.zip", zipped(FILES | {"README.md": b"theirs"}))
    assert read().train.class_names == ("cat", "dog")


def test_archive_elsewhere_is_named(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "photos.zip").write_bytes(zipped(FILES))
    paths.IMAGES.mkdir(parents=True, exist_ok=True)
    (paths.IMAGES / "photos.zip").symlink_to(tmp_path / "photos.zip")
    (line,) = refused()
    assert line.startswith("data/images/photos.zip: a symbolic link")


def test_archive_beside_images_is_left_out(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for file, content in FILES.items():
        put(file, content)
    put("more.zip", zipped(FILES))
    assert image_folder.collect(paths.RAW).endswith("left out: 1 .zip")
    assert "unpack archives" in capsys.readouterr().err


def test_two_archives_are_refused(folder: Path) -> None:
    for name in ("a.zip", "b.tar"):
        put(name, PACKS[f"photos{Path(name).suffix}"](FILES))
    assert "left out: 1 .tar, 1 .zip; unpack archives" in refused()[0]


@pytest.mark.parametrize("name", ["../cat/a.png", "/cat/a.png", "cat/../../a.png"])
@pytest.mark.parametrize("pack", ["photos.zip", "photos.tar"])
def test_path_out_of_archive_is_refused(folder: Path, pack: str, name: str) -> None:
    contents = FILES | {name: FILES["cat/a.png"]}
    put(pack, zipped(contents) if pack.endswith("zip") else tar_of(name))
    first, *lines = refused()
    assert "first unpack" in first
    assert any("leads out of the archive" in line for line in lines)
    assert not (folder.parent / "cat").exists()


def tar_of(name: str, kind: bytes = tarfile.REGTYPE) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        member = tarfile.TarInfo(name)
        member.type = kind
        member.linkname = "/etc/passwd"
        archive.addfile(member)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        (tarfile.SYMTYPE, "a link"),
        (tarfile.LNKTYPE, "a link"),
        (tarfile.CHRTYPE, "not a plain file"),
        (tarfile.FIFOTYPE, "not a plain file"),
    ],
)
def test_tar_of_no_file_is_refused(folder: Path, kind: bytes, reason: str) -> None:
    put("photos.tar", tar_of("cat/a.png", kind))
    assert any(f"data/images/cat/a.png: {reason}" in line for line in refused())


def test_link_in_zip_is_refused(folder: Path) -> None:
    link = zipfile.ZipInfo("cat/link.png")
    link.create_system = 3
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    stream = io.BytesIO(zipped(FILES))
    with zipfile.ZipFile(stream, "a") as archive:
        archive.writestr(link, "/etc/passwd")
    put("photos.zip", stream.getvalue())
    assert any("link.png: a link" in line for line in refused())


@pytest.mark.parametrize("pack", ["photos.zip", "photos.tgz"])
def test_bomb_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch, pack: str) -> None:
    monkeypatch.setattr(archives, "ALWAYS_ALLOWED", 1 << 20)
    put(pack, PACKS[pack](FILES | {f"cat/{n}.png": bytes(1 << 20) for n in range(40)}))
    (line,) = refused()
    assert "unpacks to more than" in line


def test_header_of_any_size_is_refused(folder: Path) -> None:
    stream = io.BytesIO()
    header = tarfile.TarInfo("cat/a.png")
    header.type = tarfile.XHDTYPE
    header.size = 1 << 32
    stream.write(header.tobuf(tarfile.GNU_FORMAT))
    stream.write(bytes(1024))
    put("photos.tar", stream.getvalue())
    (line,) = refused()
    assert "a header of " in line


@pytest.mark.parametrize("name", ["photos.zip", "photos.tar", "photos.tgz"])
@pytest.mark.parametrize("part", [0.0, 0.5])
def test_damaged_archive_is_one_line(folder: Path, name: str, part: float) -> None:
    content = PACKS[name](FILES)
    path = put(name, content)
    os.truncate(path, int(len(content) * part))
    assert refused()[0].startswith("data/images")
