"""Sources of a data set's files: a mirror, the official address, a package of a registry.

A source is a function that writes files into a folder, or raises FetchError with the reason why it
cannot. It never writes more bytes of a file than its size; `lab.data.download` verifies the
digests.
"""

import gzip
import importlib.util
import os
import shutil
import subprocess
import tarfile
import tempfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from lab.errors import FetchError

BLOCK = 1 << 20  # bytes per read
GZIP_OVERHEAD = 1 << 20  # bytes by which .gz can be larger than its content
MAX_EXTRA_BYTES = 1 << 28  # of an archive, besides the wanted files
MAX_MEMBERS = 10_000  # of an archive, up to the last wanted file


@dataclass(frozen=True)
class File:
    """A file to get from a source: its name in the folder and its maximum size in bytes."""

    name: str
    size: int


@dataclass(frozen=True)
class RawFile(File):
    """A file of a data set: its name in data/raw, its size in bytes and its digests."""

    md5: str
    sha256: str


Stream = IO[bytes] | gzip.GzipFile
Source = Callable[[Sequence[File], Path], None]


def mirror(dataset: str) -> Source:
    """`RETRACE_MIRROR`, a folder or an address with the files as `<dataset>/<file>`."""

    def write(files: Sequence[File], folder: Path) -> None:
        location = os.environ.get("RETRACE_MIRROR")
        if not location:
            raise FetchError("not set")
        for file in files:
            target = folder / file.name
            if "://" in location:
                download(f"{location.rstrip('/')}/{dataset}/{file.name}", target, file.size)
            else:
                _copy(Path(location).expanduser() / dataset / file.name, target, file.size)

    return write


def official(addresses: Mapping[str, str]) -> Source:
    """The address of each file, by the file's name; `.gz` is decompressed."""

    def write(files: Sequence[File], folder: Path) -> None:
        for file in files:
            download(addresses[file.name], folder / file.name, file.size)

    return write


def archive(address: str, members: Mapping[str, str]) -> Source:
    """A `.tar.gz` at an address; `members` maps each file's name to its path in the archive."""

    def write(files: Sequence[File], folder: Path) -> None:
        with (
            _downloaded(address, folder, _max_bytes(files)) as path,
            _explained(path.name),
            gzip.open(path) as content,
        ):
            _unpack(content, files, members, folder)

    return write


def npm(package: str, members: Mapping[str, str]) -> Source:
    """A package of the npm registry, downloaded by npm; `members` are paths in the package."""

    def write(files: Sequence[File], folder: Path) -> None:
        with tempfile.TemporaryDirectory() as temporary:
            command = ["npm", "pack", package, "--ignore-scripts", "--silent"]
            command += ["--pack-destination", temporary]
            path = _downloaded_by(command, temporary, "*.tgz")
            with _explained(package), gzip.open(path) as content:
                _unpack(content, files, members, folder)

    return write


def debian(package: str, members: Mapping[str, str]) -> Source:
    """A Debian package: its installed files if there are any, else downloaded by apt-get.

    Neither needs root. `members` are paths in the package (`./usr/share/...`); `.gz` is
    decompressed.
    """

    def write(files: Sequence[File], folder: Path) -> None:
        if all(Path("/", members[file.name]).is_file() for file in files):
            for file in files:
                _copy(Path("/", members[file.name]), folder / file.name, file.size)
            return
        with tempfile.TemporaryDirectory() as temporary:
            command = ["apt-get", "download", "--quiet", package]
            command = ["dpkg-deb", "--fsys-tarfile", _downloaded_by(command, temporary, "*.deb")]
            output = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
            with _explained(package), output:
                assert output.stdout is not None  # noqa: S101 - a pipe
                _unpack(output.stdout, files, members, folder)

    return write


def installed(package: str, members: Mapping[str, str]) -> Source:
    """Files of an installed Python package, which is not imported; `.gz` is decompressed."""

    def write(files: Sequence[File], folder: Path) -> None:
        spec = importlib.util.find_spec(package)
        if spec is None or not spec.submodule_search_locations:
            raise FetchError(f"the Python package {package} is not installed")
        root = Path(spec.submodule_search_locations[0])
        for file in files:
            _copy(root / members[file.name], folder / file.name, file.size)

    return write


def download(address: str, target: Path, size: int) -> None:
    """Download `address` to `target`, decompressed if it ends in `.gz`; at most `size` bytes."""
    max_bytes = size + GZIP_OVERHEAD if address.endswith(".gz") else size
    with _downloaded(address, target.parent, max_bytes) as path:
        _copy(path, target, size)


@contextmanager
def _downloaded(address: str, folder: Path, max_bytes: int) -> Iterator[Path]:
    """Yield the file at `address`, in a temporary folder below `folder`."""
    from lab.data import http_client

    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        yield http_client.retrieve(address, Path(temporary), max_bytes)


def _downloaded_by(command: Sequence[str], folder: str, pattern: str) -> str:
    """Run a package manager's `command` in `folder`, and return the one archive that it wrote."""
    program = command[0]
    if shutil.which(program) is None:
        raise FetchError(f"{program} is not installed")
    ended = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL
    )
    archives = list(Path(folder).glob(pattern))
    if ended.returncode or len(archives) != 1:
        last_line = ended.stderr.strip().rpartition("\n")[2]
        raise FetchError(last_line or f"{' '.join(command[:2])} ended with {ended.returncode}")
    return str(archives[0])


@contextmanager
def _explained(name: str) -> Iterator[None]:
    """Turn any error of reading an archive into a FetchError that begins with `name`."""
    try:
        yield
    except (OSError, EOFError, RecursionError, zlib.error, tarfile.TarError) as error:
        raise FetchError(f"{name}: {error}") from None


def _unpack(
    archive: Stream, files: Sequence[File], members: Mapping[str, str], folder: Path
) -> None:
    """Write `files` from a tar archive into `folder`, under their own names.

    Paths of the archive are never written to, links and devices are skipped, and reading ends at
    the last wanted file or at a limit.
    """
    wanted = {members[file.name]: file for file in files}
    bounded: Any = _Bounded(archive, _max_bytes(files))
    with tarfile.open(fileobj=bounded, mode="r|") as tar:
        for number, member in enumerate(tar):
            if number == MAX_MEMBERS:
                raise FetchError(f"the package has more than {MAX_MEMBERS:,} members")
            tar.members.clear()  # pyright: ignore[reportAttributeAccessIssue] - or all are kept
            if member.isreg() and member.name in wanted:
                file = wanted.pop(member.name)
                content = tar.extractfile(member)
                assert content is not None  # noqa: S101 - a regular file
                _write(_decompressed(content, member.name), folder / file.name, file.size)
            if not wanted:
                return
    raise FetchError(f"the package has no file {next(iter(wanted))}")


def _max_bytes(files: Sequence[File]) -> int:
    """Return how many bytes of an archive with these files may be read."""
    return sum(file.size for file in files) + MAX_EXTRA_BYTES


class _Bounded:
    """A stream of which at most `max_bytes` can be read: it may be a decompression bomb."""

    def __init__(self, stream: Stream, max_bytes: int) -> None:
        self.stream = stream
        self.max_bytes = max_bytes
        self.n_bytes = 0

    def read(self, size: int) -> bytes:
        block = self.stream.read(size)
        if not block:  # tarfile stops before the end of a complete archive
            raise EOFError("the package ends before its last member")
        self.n_bytes += len(block)
        if self.n_bytes > self.max_bytes:
            raise FetchError(f"the package has more than {self.max_bytes:,} bytes")
        return block


def _copy(source: Path, target: Path, size: int) -> None:
    """Copy a local file, decompressed if its name ends in `.gz`."""
    if not source.is_file():
        raise FetchError(f"{source}: no such file")
    with _explained(source.name), source.open("rb") as content:
        _write(_decompressed(content, source.name), target, size)


def _decompressed(content: Stream, name: str) -> Stream:
    return gzip.GzipFile(fileobj=content) if name.endswith(".gz") else content


def _write(content: Stream, target: Path, size: int) -> None:
    """Write at most `size` + 1 bytes: enough to detect a file that is too large."""
    left = size + 1
    with target.open("wb") as file:
        while left and (block := content.read(min(BLOCK, left))):
            file.write(block)
            left -= len(block)
