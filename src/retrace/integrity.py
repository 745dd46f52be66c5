"""Whether files are what dvc.lock says: DVC trusts what it has hashed once, and so misses a bit that flipped since."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from retrace import graph, hashing
from retrace.errors import DataError


@dataclass(frozen=True)
class Claim:
    """The file at `path` should have this MD5; `of` is the output that it belongs to."""

    path: Path
    md5: str
    of: str


def check(read: Mapping[str, str], makers: Mapping[str, str]) -> None:
    """What a stage reads is what other stages made; `read` has the MD5 of each file, which tracking needs anyway, so
    that this costs nothing. Raises DataError where it is not so. A stage that is run by hand may read anything.
    """
    if "DVC_STAGE" not in os.environ:
        return
    locked = graph.locked()
    for path, md5 in read.items():
        if path in makers and makers[path] in locked:
            said = locked[makers[path]].outs.get(path)
            if said not in (None, md5):
                raise DataError(
                    f"{path}: damaged, or changed since {makers[path]} made it: its MD5 is {md5}, "
                    f"dvc.lock says {said}; `retrace verify --cache` says how to mend it, "
                    f"`dvc commit {makers[path]}` accepts a change"
                )


def claims(cache: Path) -> list[Claim]:
    """All that dvc.lock says of outputs, in the work tree and in the folder of DVC's cache, as far as it is here."""
    found = []
    for stage in graph.locked().values():
        for out, md5 in stage.outs.items():
            found += [Claim(Path(out), md5, out), *objects(cache, out, md5)]
    return [claim for claim in dict.fromkeys(found) if claim.path.exists()]


def objects(cache: Path, out: str, md5: str) -> list[Claim]:
    """What DVC's cache has an output in: a file; of a folder its listing, and each file that this names."""
    found = [Claim(hashing.object_path(cache, md5), md5.removesuffix(".dir"), out)]
    if md5.endswith(".dir") and found[0].path.exists():
        found += [Claim(hashing.object_path(cache, inside), inside, out) for inside in _listed(found[0].path)]
    return found


def actual(claim: Claim) -> str:
    """The MD5 that the file has; or why it cannot be read."""
    try:
        return hashing.md5(claim.path)
    except OSError as error:
        return str(error.strerror)


def size(claim: Claim) -> int:
    """In bytes; of a folder, all of it."""
    files = [claim.path] if claim.path.is_file() else [file for file in claim.path.rglob("*") if file.is_file()]
    return sum(file.stat().st_size for file in files)


def _listed(listing: Path) -> list[str]:
    """The MD5 of each file of a folder; none where the listing itself is damaged."""
    try:
        return [entry["md5"] for entry in json.loads(listing.read_text(encoding="utf-8"))]
    except (ValueError, KeyError, TypeError):
        return []
