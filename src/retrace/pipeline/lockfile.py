"""Read dvc.lock: what each stage ran, read and made when DVC last ran it."""

import hashlib
import json
import posixpath
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from retrace.errors import DataError
from retrace.pipeline import yaml_files
from retrace.pipeline.definition import Pipeline, commands, qualified, split_name
from retrace.system.text import command

Algorithm = Literal["md5", "md5-dos2unix", "etag", "checksum"]
Version = Literal["1.0", "2.0"]  # of the schema


@dataclass(frozen=True)
class Hash:
    """The hash of a file or folder; that of a folder by MD5 ends in `.dir`.

    DVC 2 and older hashed text files with other line ends: md5-dos2unix. An etag or a checksum
    comes from the server of external data.
    """

    algorithm: Algorithm
    value: str
    size: int | None = None  # bytes


@dataclass(frozen=True)
class Locked:
    """A stage of dvc.lock; paths are relative to the repository's root.

    A path without a hash has None. DVC 1 wrote schema 1.0; all later versions write 2.0.
    """

    commands: tuple[str, ...]
    deps: Mapping[str, Hash | None]
    outs: Mapping[str, Hash | None]
    params: Mapping[str, Mapping[str, Any]]  # by file, the values by key, as in params_files.select
    schema: Version


def read(root: Path, pipeline: Pipeline) -> dict[str, Locked]:
    """Return the stages of every dvc.lock that are in the pipeline, by the same names.

    The pipeline is needed because dvc.lock does not record `wdir`, to which its paths are relative.
    Raises DataError if a file is not valid, for example after a merge with conflicts.
    """
    locked: dict[str, Locked] = {}
    for name in dict.fromkeys(split_name(name)[0] for name in pipeline.stages):
        file = root / Path(name).with_suffix(".lock")
        if file.exists():
            locked |= parse(file.read_bytes(), file, name, pipeline)
    return {name: locked[name] for name in pipeline.stages if name in locked}


def parse(content: bytes, file: Path, dvc_yaml: str, pipeline: Pipeline) -> dict[str, Locked]:
    """Return the stages in the content of a dvc.lock, which is beside `dvc_yaml`.

    `file` names it in messages. Raises DataError if it is not valid.
    """
    try:
        document = yaml_files.parse(content.decode()) or {}
        schema, stages = _stages(document)
        named = {qualified(dvc_yaml, name): stage for name, stage in stages.items()}
        return {
            name: _locked(stage, pipeline.stages[name].folder, schema)
            for name, stage in named.items()
            if name in pipeline.stages
        }
    except yaml_files.INVALID as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        diff = command("git", "diff", file)
        message = f"{file}: is not valid: {reason}; `{diff}` shows what changed"
        raise DataError(message) from None


def md5s(hashes: Mapping[str, Hash | None]) -> dict[str, str]:
    """Return the MD5 of each file and folder that has one, by path."""
    return {path: each.value for path, each in hashes.items() if each and each.algorithm == "md5"}


def hashes(recorded: Mapping[str, Hash | None]) -> dict[str, str]:
    """Return the MD5s, also DVC 2's, which for text files do not depend on line ends."""
    known = ("md5", "md5-dos2unix")
    return {path: each.value for path, each in recorded.items() if each and each.algorithm in known}


def current(locked: Mapping[str, Locked]) -> dict[str, Locked]:
    """Return the stages whose inputs are the outputs of the stages before them.

    The others are leftovers of another experiment. `locked` is in the pipeline's order.
    """
    outs: dict[str, Hash | None] = {}
    lost: set[str] = set()  # outputs of leftovers
    current: dict[str, Locked] = {}
    for stage, entry in locked.items():
        is_current = all(_agree(read, outs.get(path)) for path, read in entry.deps.items())
        if is_current and lost.isdisjoint(entry.deps):
            current[stage] = entry
            outs |= entry.outs
        else:
            lost |= entry.outs.keys()
    return current


def _agree(read: Hash | None, made: Hash | None) -> bool:
    """Return whether two hashes may be those of the same file."""
    return not (read and made and read.algorithm == made.algorithm) or read.value == made.value


def _stages(document: dict[str, Any]) -> tuple[Version, dict[str, Any]]:
    """Return the schema and the stages; in schema 1.0 there is nothing else at the top level."""
    schema = document.get("schema")
    if schema is None:
        return "1.0", document.get("stages", document)
    if str(schema) != "2.0":
        raise ValueError(f"schema {schema} is unknown")
    return "2.0", document.get("stages") or {}


def _locked(stage: dict[str, Any], folder: str, schema: Version) -> Locked:
    params = stage.get("params", {})
    return Locked(
        commands=commands(stage["cmd"]),
        deps=_hashes(stage.get("deps", []), folder),
        outs=_hashes(stage.get("outs", []), folder),
        params={_path(file, folder): values for file, values in params.items()},
        schema=schema,
    )


def _hashes(entries: Iterable[dict[str, Any]], folder: str) -> dict[str, Hash | None]:
    return {_path(entry["path"], folder): _hash(entry) for entry in entries}


def _hash(entry: dict[str, Any]) -> Hash | None:
    """Return the hash of a file or folder."""
    size = entry.get("size")
    if "files" in entry:  # of a remote with versions of its own: the folder's hash is not written
        sizes = [file["size"] for file in entry["files"] if "size" in file]
        return Hash("md5", _folder_hash(entry["files"]), size or sum(sizes))
    if "md5" in entry:
        is_plain = entry.get("hash") == "md5"
        return Hash("md5" if is_plain else "md5-dos2unix", str(entry["md5"]), size)
    for algorithm in ("etag", "checksum"):
        if algorithm in entry:
            return Hash(algorithm, str(entry[algorithm]), size)
    return None


def _folder_hash(files: Iterable[dict[str, Any]]) -> str:
    """Return the MD5 of DVC's listing of a folder."""
    listing = [{"md5": file["md5"], "relpath": file["relpath"]} for file in files]
    listing.sort(key=lambda file: file["relpath"])
    return hashlib.md5(json.dumps(listing, sort_keys=True).encode()).hexdigest() + ".dir"


def _path(path: str, folder: str) -> str:
    """Return a path that is relative to a stage's folder, relative to the root."""
    if "://" in path or path.startswith("/"):
        return path
    return posixpath.normpath(posixpath.join(folder, path))
