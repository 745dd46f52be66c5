"""Atomic writes, files named by their digest, and the root of the main repository."""

import hashlib
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import platformdirs

from retrace.errors import FULL, DataError


def root() -> Path:
    """Return the absolute path of the main repository, also in a queued or `--temp` experiment."""
    return Path(os.environ.get("DVC_ROOT") or Path.cwd()).resolve()


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
