"""Check files against dvc.lock, because DVC hashes a file only once and misses later corruption."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from retrace.errors import DataError
from retrace.pipeline import hashing
from retrace.pipeline.definition import Pipeline
from retrace.pipeline.workspace import Workspace
from retrace.system.text import command


@dataclass(frozen=True)
class ExpectedFile:
    """A file that should have this MD5; it belongs to `output`."""

    path: Path
    md5: str
    output: str


def check_inputs(read: Mapping[str, str], pipeline: Pipeline, recorded: Mapping[str, str]) -> None:
    """Check that a stage reads what other stages wrote.

    `read` has the MD5 of each file that it reads, `recorded` those of outputs in dvc.lock.

    Raises DataError if it does not. A stage that is run by hand, without DVC, is not checked.
    """
    if "DVC_STAGE" not in os.environ:
        return
    for path, md5 in read.items():
        expected = recorded.get(path)
        if expected not in (None, md5):
            maker = pipeline.makers[path]
            raise DataError(
                f"{path}: damaged, or changed since {maker} made it: its MD5 is {md5}, but "
                f"dvc.lock records {expected}; `retrace verify --cache` shows how to repair it, "
                f"`{command('dvc', 'commit', maker)}` accepts a change"
            )


def expected_files(cache: Path) -> list[ExpectedFile]:
    """List the MD5 that dvc.lock records for each output in the workspace and in DVC's cache.

    `cache` is the cache's folder of objects.
    """
    expected = []
    for out, md5 in Workspace(Path()).recorded.items():
        expected += [ExpectedFile(Path(out), md5, out), *expected_objects(cache, out, md5)]
    return [file for file in dict.fromkeys(expected) if file.path.exists()]


def expected_objects(cache: Path, out: str, md5: str) -> list[ExpectedFile]:
    """List the files that DVC's cache should have of an output; for a folder, also its listing."""
    expected = [ExpectedFile(hashing.object_path(cache, md5), md5.removesuffix(".dir"), out)]
    if md5.endswith(".dir") and expected[0].path.exists():
        expected += [
            ExpectedFile(hashing.object_path(cache, inside), inside, out)
            for inside in _listed(expected[0].path)
        ]
    return expected


def actual_md5(file: ExpectedFile) -> str:
    """Return the MD5 of the file, or why it cannot be read."""
    try:
        return hashing.md5(file.path)
    except OSError as error:
        return str(error.strerror)


def n_bytes(file: ExpectedFile) -> int:
    """Return the size of a file, or of all files in a folder, in bytes."""
    inside = [file.path] if file.path.is_file() else file.path.rglob("*")
    return sum(path.stat().st_size for path in inside if path.is_file())


def _listed(listing: Path) -> list[str]:
    """List the MD5 of each file of a folder; none if the listing itself is damaged."""
    try:
        return [entry["md5"] for entry in json.loads(listing.read_text(encoding="utf-8"))]
    except (ValueError, KeyError, TypeError):
        return []
