"""Download a data set's files from the first source that has them, and keep them in a cache.

The cache is outside the repository. No source is trusted: the size, MD5 and SHA-256 of each file
are compared with the pinned ones.
"""

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from lab.data.sources import RawFile, Source
from lab.errors import FetchError
from retrace.pipeline import hashing
from retrace.system import files


def fetch(
    dataset: str, raw_files: Sequence[RawFile], sources: Mapping[str, Source], folder: Path
) -> str:
    """Fill `folder` with exactly these files, verified, and return the name of their source.

    A data set without files is generated when it is read. Raises FetchError, with one line for
    each source and why it failed, if none has the files.
    """
    cache = files.cache(dataset)
    source = "the cache" if raw_files else "generated here"
    if any(_mismatch(file, cache) for file in raw_files):
        source = _fill(cache, dataset, raw_files, sources)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    for file in raw_files:
        with files.atomic(folder / file.name) as unfinished:
            shutil.copyfile(cache / file.name, unfinished)
    return source


def _fill(
    cache: Path, dataset: str, raw_files: Sequence[RawFile], sources: Mapping[str, Source]
) -> str:
    """Fill the cache from the first source that has all files, and return its name."""
    try:
        cache.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FetchError(
            f"{cache}: {error.strerror}; set RETRACE_CACHE to a folder that can be written"
        ) from None
    failures = ""
    for name, source in sources.items():
        with tempfile.TemporaryDirectory(dir=cache.parent, prefix=f".{dataset}.") as temporary:
            downloads = Path(temporary)
            try:
                source(raw_files, downloads)
                _verify(raw_files, downloads)
            except (FetchError, OSError, ValueError, EOFError) as error:
                failures += f"\n  {name}: {error}"
                continue
            for file in raw_files:
                with files.atomic(cache / file.name) as unfinished:
                    (downloads / file.name).replace(unfinished)
            return name
    raise FetchError(
        f"{dataset}: no source has its files:{failures}\n"
        f"  Put them into FOLDER/{dataset}/ and set RETRACE_MIRROR to FOLDER, "
        "or choose a data set that needs no network: -S dataset=digits"
    )


def _verify(raw_files: Sequence[RawFile], folder: Path) -> None:
    """Raise FetchError for the first file in `folder` that is missing or has different bytes."""
    for file in raw_files:
        if mismatch := _mismatch(file, folder):
            raise FetchError(mismatch)


def _mismatch(file: RawFile, folder: Path) -> str | None:
    """Return how the file in `folder` differs from the pinned size and digests, or None."""
    path = folder / file.name
    if not path.is_file():
        return f"{file.name} is missing"
    if path.stat().st_size != file.size:
        size = path.stat().st_size
        more = " or more" if size > file.size else ""  # the rest was not downloaded
        return f"{file.name} is a different file: {size} bytes{more}, expected {file.size}"
    for kind, expected in (("md5", file.md5), ("sha256", file.sha256)):
        actual = hashing.digest(path, kind)
        if actual != expected:
            return f"{file.name} is a different file: {kind} {actual}, expected {expected}"
    return None
