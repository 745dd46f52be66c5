"""DVC's cache: are its files intact, how are they linked, and who else can write to it?"""

import os
import stat
import time
from collections.abc import Iterator
from pathlib import Path

from retrace.doctor.findings import Check, Finding, ok, problem, some, warning
from retrace.pipeline import dvc_internals, hashing
from retrace.system.text import command, count

HASHED_S = 2.0  # for hashing; the next call continues
SHOWN = 20  # files in a command, at most
LINKS = "reflink,hardlink,symlink,copy"


def objects() -> Iterator[Finding]:
    """Check that all objects are read-only: DVC does not hash read-only files again."""
    folder = dvc_internals.objects()
    files = [Path(entry) for entry in _files(folder)]
    loose = [file for file in files if file.stat().st_mode & 0o222]
    if not loose:
        yield ok(f"{count(len(files), 'object')} in DVC's cache, all read-only")
        return
    until = time.monotonic() + HASHED_S
    damaged: list[str] = []
    intact: list[str] = []
    for file in loose:
        if time.monotonic() > until:
            break
        (intact if _is_intact(file) else damaged).append(str(file))
    if damaged:
        n_damaged = count(len(damaged), "overwritten object")
        state = f"{n_damaged} in DVC's cache: the MD5 does not match the name"
        repair = command("rm", "-f", *map(Path, damaged[:SHOWN]))
        yield problem(f"{state}; `dvc repro` reproduces them", repair)
        return
    state = f"{count(len(loose), 'writable object')} in DVC's cache"
    if len(intact) == len(loose):
        repair = f"{command('find', folder)} -type f -perm /222 -exec chmod a-w {{}} +"
        yield warning(f"{state}; none has changed yet", repair)
    else:
        hashed = f"{len(intact)} of them hashed and intact; the next call hashes more"
        yield warning(f"{state}; {hashed}", command("chmod", "a-w", *map(Path, intact)))


def _files(folder: Path) -> Iterator[str]:
    if folder.is_dir():
        for above in os.scandir(folder):
            if above.is_dir():
                yield from (entry.path for entry in os.scandir(above.path) if entry.is_file())


def _is_intact(file: Path) -> bool:
    """Return whether the MD5 of the bytes is the object's name."""
    return hashing.md5(file) == file.parent.name + file.name.removesuffix(".dir")


def links() -> Iterator[Finding]:
    """Check that outputs are links to the cache, not copies, if the file system has links."""
    kinds = dvc_internals.config()["cache"].get("type") or []
    folder = dvc_internals.cache().absolute()
    there = next(each for each in (folder, *folder.parents) if each.exists())
    if set(kinds) <= {"copy", "reflink"}:
        state = "outputs are copied from the cache, which doubles disk usage on file systems "
        state += "without reflinks"
        yield warning(state, f"dvc config cache.type {LINKS}")
    elif there.stat().st_dev != Path().stat().st_dev:
        state = "DVC's cache is on another file system, so outputs are symbolic links"
        yield ok(f"{state}: {', '.join(kinds)}")
    else:
        yield ok(f"outputs are links into DVC's cache: {', '.join(kinds)}")


def site() -> Iterator[Finding]:
    """Check that nobody else can write to the folder that DVC unpickles from (CVE-2025-69872)."""
    folder = dvc_internals.site_cache()
    private = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "retrace" / "dvc"
    if folder.parts[:2] == ("/", "var") or folder.parts[:2] == ("/", "Library"):  # DVC's defaults
        state = f"DVC keeps what it unpickles in {folder}, which everybody can write to"
        create = command("install", "-d", "-m", "700", private, private / "repo")
        use = command("dvc", "config", "--local", "core.site_cache_dir", private)
        yield problem(state, f"{create} && {use}")
        return
    present = [each for each in (folder, folder / "repo") if each.exists()]
    loose = [str(each) for each in present if not _is_private(each.stat())]
    if loose:
        state = f"others can write to {some(loose)}, from which DVC unpickles"
        yield problem(state, command("chmod", "go-w", *map(Path, loose)))
    else:
        yield ok(f"what DVC unpickles is in {folder}, which nobody else can write to")


def _is_private(facts: os.stat_result) -> bool:
    return facts.st_uid == os.getuid() and not facts.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


CHECKS: dict[str, Check] = {"cache": objects, "links": links, "site cache": site}
