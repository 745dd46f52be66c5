"""The files in a .zip, .tar or .tar.gz, read one after the other without unpacking it.

Nothing is written to disk, so a name in an archive leads nowhere. Sizes are limited, because a
small archive can unpack to any size.
"""

import gzip
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, NamedTuple, cast

from lab.data import decoding
from lab.data.unusable import printable
from retrace.errors import DataError

SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz")
MAX_RATIO = 100  # of an archive's content to its size
ALWAYS_ALLOWED = 1 << 30  # bytes of content
LINK = "a link; put the file itself into the archive"
UTF_8 = 0x800  # a flag of a zip's member
BROKEN = (
    OSError,
    EOFError,
    ValueError,
    RuntimeError,  # zipfile's, for a password or an unknown compression
    zlib.error,
    tarfile.TarError,
    zipfile.BadZipFile,
)


class Entry(NamedTuple):
    """A file in an archive: its path there, its size in bytes, and why it is unusable, if it is.

    `content` reads it before the next entry is asked for. It raises DataError if that fails.
    """

    name: str
    size: int
    problem: str
    content: Callable[[], bytes]


class Listed(NamedTuple):
    """A file in an archive, and why it is unusable, if it is."""

    name: str
    problem: str


def is_archive(path: Path) -> bool:
    return path.name.lower().endswith(SUFFIXES)


def listing(path: Path) -> list[Listed]:
    """List the files in an archive. Raises DataError as `entries` does."""
    listed: dict[str, Listed] = {}
    for entry in entries(path):
        is_second = entry.name in listed
        problem = entry.problem or ("twice in the archive" if is_second else "")
        listed[entry.name] = Listed(entry.name, problem)
    return list(listed.values())


def entries(path: Path) -> Iterator[Entry]:
    """Yield the files in an archive, in its order.

    Raises DataError if the archive is damaged, or too large when unpacked.
    """
    limit = max(ALWAYS_ALLOWED, MAX_RATIO * path.stat().st_size)
    members = _in_zip if path.name.lower().endswith(".zip") else _in_tar
    total = 0
    try:
        for entry in members(path, limit):
            total += entry.size
            if total > limit:
                raise ValueError(f"unpacks to more than {limit:,} bytes")
            yield entry
    except BROKEN as error:
        raise DataError(f"{path}: {printable(str(error))}") from None


def _in_zip(path: Path, _limit: int) -> Iterator[Entry]:
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            if not info.is_dir():
                name, problem = _checked(_zip_name(info), _zip_problem(info))

                def content(info: zipfile.ZipInfo = info) -> bytes:
                    return archive.read(info)

                yield Entry(name, info.file_size, problem, _reader(content, info.file_size))


def _zip_name(info: zipfile.ZipInfo) -> str:
    """Return a member's name, which some tools encode as UTF-8 without saying so."""
    if not info.flag_bits & UTF_8:
        with suppress(UnicodeError):
            return info.filename.encode("cp437").decode()
    return info.filename


def _zip_problem(info: zipfile.ZipInfo) -> str:
    mode = info.external_attr >> 16 if info.create_system == 3 else 0
    if info.flag_bits & 1:
        return "encrypted"
    if stat.S_ISLNK(mode):
        return LINK
    return "" if stat.S_IFMT(mode) in (0, stat.S_IFREG) else "not a file"


def _in_tar(path: Path, limit: int) -> Iterator[Entry]:
    is_compressed = not path.name.lower().endswith(".tar")
    with gzip.open(path) if is_compressed else path.open("rb") as stream:
        bounded = cast("IO[bytes]", _Bounded(cast("IO[bytes]", stream), limit))
        with tarfile.open(fileobj=bounded, mode="r:") as archive:
            while (member := archive.next()) is not None:
                cast("Any", archive).members.clear()  # else all headers stay in memory
                if not member.isdir():
                    name, problem = _checked(member.name, _tar_problem(member))

                    def content(member: tarfile.TarInfo = member) -> bytes:
                        return cast("IO[bytes]", archive.extractfile(member)).read()

                    yield Entry(name, member.size, problem, _reader(content, member.size))


def _tar_problem(member: tarfile.TarInfo) -> str:
    if member.issym() or member.islnk():
        return LINK
    return "" if member.isreg() and not member.issparse() else "not a plain file"


class _Bounded:
    """A file of limited size; no more than that of an image is read at once."""

    def __init__(self, stream: IO[bytes], limit: int) -> None:
        self._stream = stream
        self._limit = limit
        self.tell = stream.tell

    def read(self, size: int) -> bytes:
        if not 0 <= size <= decoding.MAX_BYTES:
            raise ValueError(f"a header of {size:,} bytes")
        return self._stream.read(size)

    def seek(self, position: int) -> int:
        if position > 2 * self._limit:  # headers and padding are not content
            raise ValueError(f"unpacks to more than {self._limit:,} bytes")
        return self._stream.seek(position)


def _checked(name: str, problem: str) -> tuple[str, str]:
    """Return a name without `.`, and its problem if it leads out of the archive."""
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if name.startswith("/") or ".." in parts or not parts:
        kept = [part for part in parts if part != ".."]
        return "/".join(kept) or "unnamed", f"its path is {name}, which leads out of the archive"
    return "/".join(parts), problem


def _reader(content: Callable[[], bytes], size: int) -> Callable[[], bytes]:
    """Return a function that reads a member. It raises DataError if that fails."""

    def read() -> bytes:
        if size > decoding.MAX_BYTES:
            raise DataError(f"{size:,} bytes, more than {decoding.MAX_BYTES:,}")
        try:
            return content()
        except BROKEN as error:
            raise DataError(str(error) or type(error).__name__) from None

    return read
