"""Do files have the MD5 in dvc.lock? DVC hashes a file once and misses a bit that flips later."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from retrace.errors import DataError
from retrace.pipeline import graph, hashing


@dataclass(frozen=True)
class ExpectedFile:
    """The file at `path` should have this MD5; it belongs to `output`."""

    path: Path
    md5: str
    output: str


def check_inputs(read: Mapping[str, str], makers: Mapping[str, str]) -> None:
    """Check that a stage reads what other stages wrote, by the MD5 of each file that it reads.

    Raises DataError if it does not. A stage that is run by hand may read anything. Tracking needs
    the hashes anyway.
    """
    if "DVC_STAGE" not in os.environ:
        return
    locked = graph.locked()
    for path, md5 in read.items():
        if path in makers and makers[path] in locked:
            expected = locked[makers[path]].outs.get(path)
            if expected not in (None, md5):
                raise DataError(
                    f"{path}: damaged, or changed since {makers[path]} made it: its MD5 is {md5}, "
                    f"in dvc.lock it is {expected}; `retrace verify --cache` shows how to repair "
                    f"it, `dvc commit {makers[path]}` accepts a change"
                )


def claims(cache: Path) -> list[ExpectedFile]:
    """List what dvc.lock claims of the outputs here, in the work tree and in DVC's cache.

    `cache` is the cache's folder of objects.
    """
    claims = []
    for stage in graph.locked().values():
        for out, md5 in stage.outs.items():
            claims += [ExpectedFile(Path(out), md5, out), *cached_claims(cache, out, md5)]
    return [claim for claim in dict.fromkeys(claims) if claim.path.exists()]


def cached_claims(cache: Path, out: str, md5: str) -> list[ExpectedFile]:
    """List what DVC's cache should have of an output: a file, or a folder's listing and files."""
    claims = [ExpectedFile(hashing.object_path(cache, md5), md5.removesuffix(".dir"), out)]
    if md5.endswith(".dir") and claims[0].path.exists():
        claims += [
            ExpectedFile(hashing.object_path(cache, inside), inside, out)
            for inside in _listed(claims[0].path)
        ]
    return claims


def actual_md5(claim: ExpectedFile) -> str:
    """Return the MD5 of the file, or why it cannot be read."""
    try:
        return hashing.md5(claim.path)
    except OSError as error:
        return str(error.strerror)


def n_bytes(claim: ExpectedFile) -> int:
    """Return the size of a file, or of all files in a folder, in bytes."""
    inside = [claim.path] if claim.path.is_file() else claim.path.rglob("*")
    return sum(file.stat().st_size for file in inside if file.is_file())


def _listed(listing: Path) -> list[str]:
    """List the MD5 of each file of a folder; none if the listing itself is damaged."""
    try:
        return [entry["md5"] for entry in json.loads(listing.read_text(encoding="utf-8"))]
    except (ValueError, KeyError, TypeError):
        return []
