"""`retrace verify --cache`: every byte that dvc.lock names, in the work tree and in DVC's cache, hashed anew."""

import json
import shlex
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from retrace import dvc_internals, graph, integrity
from retrace.errors import DataError


def check(*, as_json: bool = False) -> int:
    """Each file that is not what it should be has a line, and one says what to type. Exit code 0 if there is none."""
    cache = dvc_internals.objects().absolute()
    claims, began = integrity.claims(cache), time.perf_counter()
    if not claims:
        raise DataError("dvc.lock: names nothing that is here; `dvc repro` makes it")
    with ThreadPoolExecutor() as threads:  # hashing lets other threads run
        found = list(threads.map(integrity.actual_md5, claims))
    seconds = time.perf_counter() - began
    there = {claim.output for claim in claims}
    absent = [out for stage in graph.locked().values() for out in stage.outs if out not in there]
    damaged = {claim: md5 for claim, md5 in zip(claims, found, strict=True) if md5 != claim.md5}
    # The work tree's file too, which may be a link to the cache's, and whose time of change DVC trusts.
    gone = dict.fromkeys(path for claim in damaged for path in (_shown(claim.path), claim.output))
    repair = f"rm -rf {shlex.join(gone)} && dvc repro" if damaged else None
    if as_json:
        facts = [{"path": str(c.path), "md5": md5, "expected": c.md5, "of": c.output} for c, md5 in damaged.items()]
        print(json.dumps({"checked": len(claims), "damaged": facts, "absent": absent, "repair": repair}, indent=2))
        return 1 if damaged else 0
    for claim, md5 in damaged.items():
        print(f"{_shown(claim.path)}: its MD5 is {md5}, dvc.lock says {claim.md5}, for {claim.output}")
    n_bytes = sum(map(integrity.n_bytes, claims))
    n_cached = sum(claim.path.is_relative_to(cache) for claim in claims)
    print(
        f"{len(claims) - n_cached} files and folders here, {n_cached} files in DVC's cache: "
        f"{n_bytes / 1e6:,.0f} MB, {n_bytes / 1e6 / seconds:,.0f} MB/s"
    )
    if absent:
        print(f"neither here nor in the cache: {', '.join(absent)}")
    if not damaged:
        print("all are what dvc.lock says")
        return 0
    print(f"to make them again: {repair}")
    return 1


def _shown(path: Path) -> str:
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)
