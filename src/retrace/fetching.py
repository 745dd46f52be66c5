"""Files from the first source that has them, verified by digest, kept in a cache outside the repository.

What a source wrote is believed only after its SHA-256 matched: no source needs to be trusted.
"""

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from retrace import hashing, paths
from retrace.errors import FetchError
from retrace.sources import RawFile, Source


def fetch(dataset: str, files: Sequence[RawFile], sources: Mapping[str, Source], folder: Path) -> str:
    """`folder` holds exactly `files`, verified; returns where they came from.

    Raises FetchError, with a line a source and its reason, where none has them. No files are a data set that is
    generated when it is read.
    """
    kept = paths.cache(dataset)
    origin = "the cache" if files else "generated here"
    if any(_fault(file, kept) for file in files):
        origin = _fill(kept, dataset, files, sources)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    for file in files:
        with paths.atomic(folder / file.name) as unfinished:
            shutil.copyfile(kept / file.name, unfinished)
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
            except (FetchError, OSError, ValueError, EOFError) as error:
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


def _fault(file: RawFile, folder: Path) -> str | None:
    path = folder / file.name
    if not path.is_file():
        return f"{file.name} is missing"
    if path.stat().st_size != file.size:
        return f"{file.name} is not the file: {path.stat().st_size} bytes or more, expected {file.size}"
    for kind, expected in (("md5", file.md5), ("sha256", file.sha256)):
        actual = hashing.digest(path, kind)
        if actual != expected:
            return f"{file.name} is not the file: {kind} {actual}, expected {expected}"
    return None
