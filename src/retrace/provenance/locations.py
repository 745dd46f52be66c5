"""Find where a run's outputs are now, and the shell commands that restore them.

A location is listed only after its file was read and had the right MD5: DVC itself hashes a file
only once and does not notice later corruption, and MLflow does not hash files. DVC's remote is slow
to query, so it is only listed as a possible location ("perhaps") if no other location has the file.
"""

import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePosixPath

from retrace.errors import DataError
from retrace.pipeline import dvc_internals, git, hashing, snapshot
from retrace.pipeline.workspace import Workspace
from retrace.store import backend, names, tracking_uri
from retrace.system import files
from retrace.system.text import command

PATCH = "code.patch"  # the artifact with uncommitted changes


@dataclass(frozen=True)
class Output:
    """A file or folder that a run made.

    `rev` is the commit of the run's experiment, if DVC made one.
    """

    path: str
    md5: str
    run: str
    rev: str | None


@dataclass(frozen=True)
class Locations:
    """The names of an output's locations, and commands that restore it; both empty if lost."""

    names: list[str]
    commands: list[str]


def locate(client: backend.MlflowClient, output: Output, into: str) -> Locations:
    """Return all locations of an output, and the commands that copy it into `into`."""
    commit = _commit(output)
    cached = objects(output.md5)
    out = f"{into}/{output.path}"
    get = command("dvc", "get", *_in_git(output.path), "--rev", str(commit)[:12], "--out", out)
    ways: dict[str, list[str]] = {}
    if commit and (cached or _is_in_git(commit, output)):
        ways[f"commit {commit[:12]}"] = [get]
    if cached:
        ways["DVC's cache"] = [
            _copy(source, Path(out) / inside) for inside, source in cached.items()
        ]
    if _is_artifact(client, output):
        ways["MLflow's artifacts"] = [_download(output.run, output.path, Path(out).parent)]
    if Path(output.path).exists() and hashing.md5(Path(output.path)) == output.md5:
        ways["the work tree"] = [_copy(Path(output.path), Path(out))]
    if commit and not ways and dvc_internals.config()["remote"]:
        ways["DVC's remote, perhaps"] = [get]
    return Locations(list(ways), next(iter(ways.values()), []))


def local_copy(path: str, md5: str) -> Path | None:
    """Return a file with this MD5: at `path` in the work tree, else in DVC's cache."""
    here = Path(path)
    return here if here.is_file() and hashing.md5(here) == md5 else _object(md5)


def download(client: backend.MlflowClient, output: Output, into: str) -> Path | None:
    """Download an output from its run's artifacts; return None if it is not intact there."""
    path = names.encode_path(output.path)
    above = None if "/" not in path else str(Path(path).parent)
    if path not in {artifact.path for artifact in client.list_artifacts(output.run, above)}:
        return None
    got = Path(client.download_artifacts(output.run, path, into))
    return got if hashing.md5(got) == output.md5 else None


def reproduce_commands(
    client: backend.MlflowClient, run: backend.Run, rev: str | None
) -> list[str]:
    """Return the commands that reproduce a stage's run in a work tree beside this one.

    There are none if the commit of its code no longer exists.
    """
    tags = run.data.tags
    tree = f"../again-{run.info.run_id[:8]}"
    commit = next(
        (at for at in (rev, tags.get("mlflow.source.git.commit")) if at and git.has_commit(at)),
        None,
    )
    if commit is None:
        return []
    commands = [command("git", "worktree", "add", "--detach", tree, commit)]
    if commit != rev and has_patch(client, run):
        patch = _download(run.info.run_id, PATCH, Path(tree))
        commands += [f"{patch} && {command('git', '-C', tree, 'apply', PATCH)}"]
    enter = command("cd", Path(tree, git.inside(files.root())))
    return [*commands, f"({enter} && {command('dvc', 'repro', tags['retrace.stage'])})"]


def has_patch(client: backend.MlflowClient, run: backend.Run) -> bool:
    """Return whether the code or parameters of a run differed from its commit."""
    return PATCH in {artifact.path for artifact in client.list_artifacts(run.info.run_id)}


def _commit(output: Output) -> str | None:
    """Return a commit whose dvc.lock has these bytes: the experiment's own, else the newest."""

    def candidates() -> Iterator[str]:
        yield from [output.rev] if output.rev else []
        yield from git.commits_with(output.md5, Path("dvc.lock"))

    return next((each for each in candidates() if _outs(each).get(output.path) == output.md5), None)


def _in_git(path: str) -> tuple[str, Path]:
    """Return git's top folder, and the path in it: a commit is that of git's repository."""
    inside = Path(git.inside(files.root()))
    return "/".join([".."] * len(inside.parts)) or ".", inside / path


@cache
def _outs(commit: str) -> Mapping[str, str]:
    with snapshot.export(commit, with_files=False) as folder, suppress(DataError):
        return Workspace(folder).recorded  # unless its dvc.lock has conflicts
    return {}


def _is_in_git(commit: str, output: Output) -> bool:
    with git.export(commit, output.path) as folder:
        file = folder / output.path
        return file.exists() and hashing.md5(file) == output.md5


def objects(md5: str) -> dict[str, Path]:
    """Return where DVC's cache has each file, by its path in the folder (`.` for a file).

    The mapping is empty if one is missing or damaged.
    """
    listing = _object(md5)
    if listing is None or not md5.endswith(".dir"):
        return {".": listing} if listing else {}
    entries = json.loads(listing.read_bytes())
    sources = {entry["relpath"]: _object(entry["md5"]) for entry in entries}
    intact = {inside: source for inside, source in sources.items() if source}
    return intact if len(intact) == len(sources) else {}


def _object(md5: str) -> Path | None:
    """Return the intact file with this MD5 in DVC's cache."""
    path = hashing.object_path(Path(os.path.relpath(_cache(Path.cwd()))), md5)
    return path if path.is_file() and hashing.md5(path) == md5.removesuffix(".dir") else None


@cache
def _cache(folder: Path) -> Path:
    """Return the folder of objects in the cache of the repository in `folder`; read it once."""
    return folder / dvc_internals.objects()


def _is_artifact(client: backend.MlflowClient, output: Output) -> bool:
    with tempfile.TemporaryDirectory() as folder:
        return download(client, output, folder) is not None


def _download(run: str, path: str, into: Path) -> str:
    artifact = names.encode_path(path)
    options = ("--run-id", run, "--artifact-path", artifact, f"--dst-path={into}")
    download = tracking_uri.for_shell() + command("mlflow", "artifacts", "download", *options)
    if artifact == path:
        return download
    downloaded = into / PurePosixPath(artifact).name
    return f"{download} && {command('mv', downloaded, into / PurePosixPath(path).name)}"


def _copy(source: Path, to: Path) -> str:
    return f"{command('mkdir', '-p', to.parent)} && {command('cp', '-RL', source, to)}"
