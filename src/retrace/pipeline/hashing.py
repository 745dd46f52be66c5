"""Hash files: MD5 in DVC's way, SHA-256, and the path of a file in DVC's cache."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from retrace.pipeline import dvc_ignore

BYTECODE = "__pycache__"


def md5(path: Path, *, has_bytecode: bool = True) -> str:
    """Return DVC's hash of a file or folder.

    A folder's hash is the MD5 of the list of its files and ends in `.dir`, so a stage can name its
    outputs before DVC has written them to dvc.lock. It can leave out the compiled code that Python
    adds to a folder while a stage runs.
    """
    if not path.is_dir():
        return digest(path, "md5")
    files = [
        file
        for file in dvc_ignore.unignored(path)
        if has_bytecode or BYTECODE not in file.relative_to(path).parts
    ]
    listing = [
        {"md5": digest(file, "md5"), "relpath": file.relative_to(path).as_posix()} for file in files
    ]
    listing.sort(key=lambda entry: entry["relpath"])
    return hashlib.md5(json.dumps(listing, sort_keys=True).encode()).hexdigest() + ".dir"


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file, as hexadecimal digits."""
    return digest(path, "sha256")


def digest(path: Path, algorithm: str) -> str:
    """Return a file's hash by any algorithm of hashlib, as hexadecimal digits."""
    with path.open("rb") as file:
        return stream_digest(file, algorithm)


def stream_digest(file: IO[bytes], algorithm: str) -> str:
    """Return the hash of the rest of an open file, as hexadecimal digits."""
    return hashlib.file_digest(file, algorithm).hexdigest()  # pyright: ignore[reportArgumentType]


def object_path(objects: Path, md5: str) -> Path:
    """Return the path of a file in DVC's cache by its MD5; `objects` is the cache's files/md5."""
    return objects / md5[:2] / md5[2:]


def listed(objects: Path, path: str, md5: str) -> Iterator[tuple[str, str]]:
    """Yield the path and the MD5 of a file, or of each file in a folder whose listing is intact."""
    listing = object_path(objects, md5)
    if not md5.endswith(".dir"):
        yield path, md5
    elif listing.is_file() and digest(listing, "md5") == md5.removesuffix(".dir"):
        for entry in json.loads(listing.read_bytes()):
            yield f"{path}/{entry['relpath']}", entry["md5"]
