"""DVC's cache: whether its files are intact, how they are linked, and who else can write to it."""

import os
import shlex
import stat
import time
from collections.abc import Iterator
from pathlib import Path

from retrace.doctor.findings import Check, Finding, ok, problem, some, warning
from retrace.pipeline import dvc_internals, hashing

HASHED_S = 2.0  # of hashing; the next call continues
SHOWN = 20  # of files in a command
LINKS = "reflink,hardlink,symlink,copy"


def objects() -> Iterator[Finding]:
    """All objects are read-only: DVC trusts these without hashing them again."""
    folder = dvc_internals.objects()
    files = [Path(entry) for entry in _files(folder)]
    loose = [file for file in files if file.stat().st_mode & 0o222]
    if not loose:
        yield ok(f"{len(files)} objects in DVC's cache, all read-only")
        return
    until = time.monotonic() + HASHED_S
    damaged: list[str] = []
    intact: list[str] = []
    for file in loose:
        if time.monotonic() > until:
            break
        (intact if _is_intact(file) else damaged).append(str(file))
    if damaged:
        said = (
            f"{len(damaged)} objects in DVC's cache were overwritten: their MD5 is not their name"
        )
        yield problem(
            f"{said}; `dvc repro` reproduces them", f"rm -f {shlex.join(damaged[:SHOWN])}"
        )
    elif len(intact) == len(loose):
        said = f"{len(loose)} objects in DVC's cache are writable; none has changed yet"
        yield warning(
            said, f"find {shlex.quote(str(folder))} -type f -perm /222 -exec chmod a-w {{}} +"
        )
    else:
        said = f"{len(loose)} objects in DVC's cache are writable; {len(intact)} were hashed and are intact"
        yield warning(f"{said}; the next call continues", f"chmod a-w {shlex.join(intact)}")


def _files(folder: Path) -> Iterator[str]:
    if folder.is_dir():
        for above in os.scandir(folder):
            if above.is_dir():
                yield from (entry.path for entry in os.scandir(above.path) if entry.is_file())


def _is_intact(file: Path) -> bool:
    """Return whether the MD5 of the bytes is the object's name."""
    return hashing.md5(file) == file.parent.name + file.name.removesuffix(".dir")


def links() -> Iterator[Finding]:
    """Outputs are links to the cache if the file system has links, not copies."""
    kinds = dvc_internals.config()["cache"].get("type") or []
    there = next(
        each
        for each in (dvc_internals.cache(), *dvc_internals.cache().absolute().parents)
        if each.exists()
    )
    if set(kinds) <= {"copy", "reflink"}:
        said = "outputs are copies of the cache's files: twice the space, unless there are reflinks"
        yield warning(said, f"dvc config cache.type {LINKS}")
    elif there.stat().st_dev != Path().stat().st_dev:
        yield ok(
            f"DVC's cache is on another file system, so outputs are symbolic links: {', '.join(kinds)}"
        )
    else:
        yield ok(f"outputs are links into DVC's cache: {', '.join(kinds)}")


def site() -> Iterator[Finding]:
    """Nobody else can write to the folder that DVC unpickles from (CVE-2025-69872)."""
    folder = dvc_internals.site_cache()
    private = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "retrace" / "dvc"
    if folder.parts[:2] == ("/", "var") or folder.parts[:2] == ("/", "Library"):  # DVC's own choice
        said = f"DVC keeps what it unpickles in {folder}, which everybody can write to"
        names = shlex.join([str(private), str(private / "repo")])
        yield problem(
            said, f"install -d -m 700 {names} && dvc config --local core.site_cache_dir {private}"
        )
        return
    loose = [
        each for each in (folder, folder / "repo") if each.exists() and not _is_private(each.stat())
    ]
    if loose:
        said = f"others can write to {some(list(map(str, loose)))}, from where DVC unpickles"
        yield problem(said, f"chmod go-w {shlex.join(map(str, loose))}")
    else:
        yield ok(f"what DVC unpickles is in {folder}, which nobody else can write to")


def _is_private(facts: os.stat_result) -> bool:
    return facts.st_uid == os.getuid() and not facts.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


CHECKS: dict[str, Check] = {"cache": objects, "links": links, "site cache": site}
