"""Atomic writes, files named by their digest, and the root of the main repository."""

import hashlib
import io
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from urllib.parse import quote

import platformdirs

from retrace.errors import FULL, DataError

MAX_NAME = 150  # characters; a file name may have 255 bytes


def root() -> Path:
    """Return the absolute path of the main repository, also in a queued or `--temp` experiment."""
    return Path(os.environ.get("DVC_ROOT") or repository(Path.cwd())).resolve()


def repository(folder: Path) -> Path:
    """Return the nearest folder from `folder` upwards that has `.dvc/`; `folder` if none has."""
    return next((each for each in (folder, *folder.parents) if (each / ".dvc").is_dir()), folder)


def within(path: Path) -> list[Path]:
    """Return the file `path` itself, or all files in the folder `path`, sorted."""
    return sorted(filter(Path.is_file, [path, *path.rglob("*")]))


def extract(packed: bytes, folder: Path) -> None:
    """Write the files of a tar archive into a folder, and none outside of it."""
    import tarfile  # takes time to import

    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        if hasattr(tarfile, "data_filter"):
            archive.extractall(folder, filter="data")
        else:  # before Python 3.11.4
            inside = [
                each for each in archive if _is_inside(each.name) and _is_inside(each.linkname)
            ]
            archive.extractall(folder, inside)  # noqa: S202 - checked


def file_name(name: str) -> str:
    """Return `name` as the name of a file: without slashes and control characters, not too long."""
    quoted = quote(name, safe="@=+, ")
    if len(quoted) <= MAX_NAME:
        return quoted
    return f"{quoted[:MAX_NAME]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def cache(name: str) -> Path:
    """Return the folder for downloads, outside all clones: in RETRACE_CACHE or the user's cache."""
    return Path(os.environ.get("RETRACE_CACHE") or platformdirs.user_cache_path("retrace")) / name


@contextmanager
def atomic(path: Path, size: int | None = None) -> Iterator[Path]:
    """Yield a temporary name beside `path`; after the block the file there becomes `path`.

    `path` is either complete and on disk, or as it was before. Raises DataError if the disk is
    full; the message names `size`, in bytes, if it is given.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield unfinished
        with unfinished.open("rb") as file:
            os.fsync(file.fileno())
        unfinished.replace(path)
    except Exception as error:
        if not _is_disk_full(error):
            raise
        written = unfinished.stat().st_size if unfinished.exists() else 0
        needed = f"more than {written:,} bytes" if size is None else f"{size:,} bytes"
        free = f"{shutil.disk_usage(path.parent).free:,} are free"
        reason = getattr(error, "strerror", None) or error
        problem = f"{needed} can't be written ({reason}; {free})"
        raise DataError(f"{path}: {problem}; free some disk space") from None
    finally:
        unfinished.unlink(missing_ok=True)


def is_intact(path: Path) -> bool:
    """Return whether the file's SHA-256 is the one with which its name ends (before the suffix)."""
    with path.open("rb") as file:
        return path.stem.endswith(hashlib.file_digest(file, "sha256").hexdigest())


def _is_disk_full(error: Exception) -> bool:
    """Return whether the disk was full, by the error's number or by safetensors' message."""
    match = re.search(r"os error (\d+)", str(error))
    number = int(match[1]) if match else getattr(error, "errno", None)
    return number in FULL


def _is_inside(path: str) -> bool:
    pure = PurePosixPath(path)
    return not pure.is_absolute() and ".." not in pure.parts
