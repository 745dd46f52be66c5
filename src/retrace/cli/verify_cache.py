"""`retrace verify --cache`: hash the files of dvc.lock in the workspace and in DVC's cache."""

import json
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from retrace.errors import DataError
from retrace.pipeline import dvc_internals, integrity
from retrace.pipeline.integrity import ExpectedFile
from retrace.pipeline.workspace import Workspace
from retrace.system.text import command, count


def check(*, as_json: bool = False) -> int:
    """Print damaged files and the command that repairs them; return 1 if there are any, else 0."""
    cache = dvc_internals.objects().absolute()
    expected = integrity.expected_files(cache)
    if not expected:
        state = "none of its outputs is in the workspace or in DVC's cache"
        raise DataError(f"dvc.lock: {state}; run `dvc repro`")
    began = time.perf_counter()
    with ThreadPoolExecutor() as threads:  # hashing lets other threads run
        hashes = list(threads.map(integrity.actual_md5, expected))
    seconds = time.perf_counter() - began
    present = {file.output for file in expected}
    outs = list(Workspace(Path()).recorded)
    absent = [out for out in outs if out not in present]
    damaged = {file: md5 for file, md5 in zip(expected, hashes, strict=True) if md5 != file.md5}
    # Also remove the workspace's file: it may be a link to the cache's, and DVC trusts its mtime.
    paths = dict.fromkeys(path for file in damaged for path in (_shown(file.path), file.output))
    repair = f"{command('rm', '-rf', *map(Path, paths))} && dvc repro" if damaged else None
    if as_json:
        files = [
            {"path": str(file.path), "md5": md5, "expected": file.md5, "out": file.output}
            for file, md5 in damaged.items()
        ]
        document = {"checked": len(expected), "damaged": files, "absent": absent, "repair": repair}
        print(json.dumps(document, indent=2))
    else:
        _print(expected, damaged, absent, cache, seconds)
        print(f"to repair: {repair}" if repair else "all files match dvc.lock")
    return 1 if damaged else 0


def _print(
    expected: Sequence[ExpectedFile],
    damaged: Mapping[ExpectedFile, str],
    absent: Sequence[str],
    cache: Path,
    seconds: float,
) -> None:
    """Print a line for each damaged file, and how much was hashed."""
    for file, md5 in damaged.items():
        path = _shown(file.path)
        name = path if path == file.output else f"{path} (part of {file.output})"
        print(f"{name}: its MD5 is {md5}, but dvc.lock records {file.md5}")
    n_bytes = sum(map(integrity.n_bytes, expected))
    n_cached = sum(file.path.is_relative_to(cache) for file in expected)
    here = count(len(expected) - n_cached, "file or folder", "files and folders")
    print(
        f"{here} here, {count(n_cached, 'file')} in DVC's cache: "
        f"{n_bytes / 1e6:,.0f} MB, {n_bytes / 1e6 / seconds:,.0f} MB/s"
    )
    if absent:
        print(f"neither here nor in the cache: {', '.join(absent)}")


def _shown(path: Path) -> str:
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)
