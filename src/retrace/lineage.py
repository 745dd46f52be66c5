"""What git and DVC know about the run at hand: where it belongs, which experiment it is, which bytes it reads.

Hashes are DVC's own, computed the way DVC does: the MD5 of a file, and for a folder the MD5 of a listing. A stage can
so name what it made before DVC has written it to dvc.lock.
"""

import hashlib
import io
import json
import os
import re
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from retrace import paths

CODE = ("src/retrace/**/*.py", "stages/*.py", "dvc.yaml")


def commit() -> str | None:
    """The commit that the work tree stands on; an experiment's own commit exists only after its stages."""
    said = _git("rev-parse", "HEAD")
    return said and said.strip()


def changed(rev: str, *files: Path) -> str | None:
    """The newest commit, from `rev` back by first parents, that made one of `files` what it is there."""
    said = _git("log", "-1", "--first-parent", "--format=%H", rev, "--", *map(str, files))
    return (said or "").strip() or None


def content(rev: str, file: Path) -> bytes | None:
    """What `file` held in a commit; None where it had none."""
    return _said("show", f"{rev}:./{file}")


def said_by(rev: str) -> tuple[str, str]:
    """The date (year-month-day, of its author) and the first line of a commit's message."""
    date, _, subject = (_git("log", "-1", "--date=short", "--format=%ad %s", rev) or "").strip().partition(" ")
    return date, subject


def experiment() -> dict[str, str]:
    """DVC's name of the experiment and the commit it was made from; empty outside `dvc exp run`."""
    names = {"dvc.exp_name": "DVC_EXP_NAME", "dvc.baseline_rev": "DVC_EXP_BASELINE_REV"}
    return {tag: os.environ[name] for tag, name in names.items() if os.environ.get(name)}


def key(values: Mapping[str, Any], folder: Path = Path(), images: str | None = None) -> str:
    """The experiment's identity: equal if and only if parameters and code are, and your own images where the data set
    is made of them. 32 hexadecimal digits. `folder` is the repository; `images` the hash of data/images, if known.
    """
    digest = hashlib.sha256(json.dumps(values, sort_keys=True, default=str).encode())
    for file in code(folder):
        digest.update(f"\0{file}\0".encode() + (folder / file).read_bytes())
    if values["dataset"] == "image_folder" and (images or (folder / paths.IMAGES).exists()):
        digest.update((images or md5(folder / paths.IMAGES)).encode())
    return digest.hexdigest()[:32]


def code(folder: Path = Path()) -> list[Path]:
    """The files that an experiment's code is made of, relative to `folder`."""
    return sorted(file.relative_to(folder) for pattern in CODE for file in folder.glob(pattern))


def inputs(stage: str, values: Mapping[str, Any], deps: Mapping[str, str]) -> str:
    """All that decides what a stage makes, in 32 hexadecimal digits: the parameters that it reads, the MD5 of its
    dependencies.
    """
    return hashlib.sha256(json.dumps([stage, values, deps], sort_keys=True, default=str).encode()).hexdigest()[:32]


def changes() -> bytes:
    """The code and parameters here against the last commit, as a patch for `git apply`; new files are in it. Of bytes,
    since a source file may have any.
    """
    with tempfile.TemporaryDirectory() as folder:
        index = {"GIT_INDEX_FILE": f"{folder}/index"}  # a scratch one: the user's stays as it is
        present = [name for name in ("src", "stages", str(paths.GRAPH), str(paths.PARAMS)) if Path(name).exists()]
        if _git("read-tree", "HEAD", **index) is None or _git("add", "--all", "--", *present, **index) is None:
            return b""
        # Plumbing: `git diff` would heed the user's settings, and print what `git apply` does not take.
        return _said("diff-index", "--cached", "--patch", "--binary", "HEAD", "--", *present, **index) or b""


@dataclass(frozen=True)
class Ref:
    """An experiment of DVC's: its name, the commit that it was made from, its own commit and when that was made
    (milliseconds since 1970).
    """

    name: str
    baseline: str
    rev: str
    time: int


def experiments() -> list[Ref]:
    """DVC's experiments in this repository."""
    listed = _git("for-each-ref", "--format=%(objectname) %(committerdate:unix) %(refname)", "refs/exps") or ""
    found = (re.fullmatch(r"(\w+) (\d+) refs/exps/(\w{2})/(\w{38})/(.+)", line) for line in listed.splitlines())
    return [Ref(hit[5], hit[3] + hit[4], hit[1], int(hit[2]) * 1000) for hit in found if hit]


def commit_of(name: str) -> str | None:
    """The commit that git calls so: a branch, a tag, the first digits of one, HEAD~1."""
    said = _git("rev-parse", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}")
    return said and said.strip()


def has(commit: str) -> bool:
    """Whether this repository has the commit, also where nothing names it any more."""
    return _said("cat-file", "-e", f"{commit}^{{commit}}") is not None


def time_of(rev: str) -> int:
    """When a commit was made, in milliseconds since 1970; 0 without one."""
    return int(_git("log", "-1", "--format=%ct", rev) or 0) * 1000


@contextmanager
def exported(rev: str) -> Iterator[Path]:
    """Yield a folder with the code, the parameters, dvc.lock and the metrics of a commit, as far as it has them."""
    names = ("src", "stages", paths.GRAPH, paths.PARAMS, paths.METRICS, "dvc.lock")
    with tempfile.TemporaryDirectory() as folder:
        held = (_git("ls-tree", "--name-only", rev, *map(str, names)) or "").split()
        if not held:  # without a name git would archive all that there is
            yield Path(folder)
            return
        packed = subprocess.run(["git", "archive", rev, *held], capture_output=True, check=False).stdout
        if packed:
            with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
                archive.extractall(folder, filter="data")
        yield Path(folder)


def _git(*command: str, **env: str) -> str | None:
    said = _said(*command, **env)
    return None if said is None else os.fsdecode(said)


def _said(*command: str, **env: str) -> bytes | None:
    """What git said; None where it failed, as outside a repository."""
    asked = subprocess.run(["git", *command], capture_output=True, check=False, env=os.environ | env)
    return asked.stdout if asked.returncode == 0 else None


def md5(path: Path) -> str:
    """The hash that DVC gives `path`: of a folder, with the suffix `.dir`."""
    if path.is_dir():
        inside = sorted(file for file in path.rglob("*") if file.is_file() and "__pycache__" not in file.parts)
        listing = [{"md5": md5(file), "relpath": file.relative_to(path).as_posix()} for file in inside]
        listing.sort(key=lambda entry: entry["relpath"])
        return hashlib.md5(json.dumps(listing, sort_keys=True).encode()).hexdigest() + ".dir"
    with path.open("rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest()
