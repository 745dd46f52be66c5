"""Restore the code, parameters and raw data of a run into a folder, byte for byte."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

from retrace import settings
from retrace.errors import RetraceError
from retrace.pipeline import git, identity, params_yaml
from retrace.pipeline.definition import Pipeline, prefixes
from retrace.pipeline.origin import Origin, check_out_origin
from retrace.pipeline.workspace import Workspace
from retrace.provenance import reproduce
from retrace.provenance.locations import PATCH
from retrace.provenance.record import Record
from retrace.store import backend, cached_stages

MAX_OTHERS = 3  # commits with the same outputs


def restore(client: backend.MlflowClient, record: Record, tree: Path) -> Origin:
    """Write the code, parameters and raw data of the run into `tree`; return where they came from.

    Raises RetraceError if no commit or patch that still exists has the experiment's key.
    """
    failed: list[str] = []
    for origin in dict.fromkeys(_origins(client, record)):
        try:
            check_out_origin(tree, origin)
            workspace = Workspace(tree)
            for path, md5 in _data(record, workspace.pipeline).items():
                reproduce.restore_data(tree, path, md5, origin.commit)
        except RetraceError as error:
            failed.append(str(error))
            continue
        if record.parent.data.tags["retrace.key"] in _keys(workspace):
            return origin
        others = ", ".join(_others(record, workspace)) or "a file that no stage depends on"
        lost = "changes that were neither committed nor saved with the run cannot be restored"
        failed.append(f"{origin} differs from what the run used, in {others}; {lost}")
    no_commit = "ran outside git, so its code was not recorded"
    if lost := record.lost():
        no_commit = f"its code was not recorded: {'; '.join(map(': '.join, lost.items()))}"
    raise RetraceError(f"{record.name}: {failed[0] if failed else no_commit}")


def _data(record: Record, pipeline: Pipeline) -> dict[str, str]:
    """Return the data that the runs read and no stage made, as hashes by path."""
    hashes: dict[str, str] = {}
    for run in record.made_by.values():
        hashes |= cached_stages.hashes(run, "deps")
    for source in pipeline.sources:  # in a folder in which stages make something too
        if source.md5 and not hashes.keys().isdisjoint([*prefixes(source.path), "."]):
            hashes.setdefault(source.path, source.md5)
    leaves = sorted(git.untracked(hashes.keys() & pipeline.leaves.keys()))
    return {path: hashes[path] for path in leaves}


def _keys(workspace: Workspace) -> Iterator[str]:
    """Yield the experiment's identity in a folder, by this version and the one before."""
    yield workspace.key()
    if (workspace.root / settings.PARAMS).exists():
        yield identity.key_1(params_yaml.read(workspace.root / settings.PARAMS), workspace.root)


def _origins(client: backend.MlflowClient, record: Record) -> Iterator[Origin]:
    """Yield the commits and patches that may have the code, the most likely first."""
    for run in record.own():
        if commit := run.data.tags.get("mlflow.source.git.commit"):
            yield Origin(commit, _patch(client, run.info.run_id))
    for tag in ("dvc.exp_rev", "mlflow.source.git.commit"):
        if commit := record.parent.data.tags.get(tag):
            yield Origin(commit)
    # After `git commit --amend` or a rebase, another commit has the same files.
    md5 = next(iter(cached_stages.hashes(record.made_by[record.stages[-1]], "outs").values()), "")
    others = git.commits_with(md5, Path("dvc.lock")) if md5 else []
    yield from map(Origin, others[:MAX_OTHERS])


def _patch(client: backend.MlflowClient, run: str) -> bytes:
    if PATCH not in {file.path for file in client.list_artifacts(run)}:
        return b""
    with tempfile.TemporaryDirectory() as folder:
        return Path(client.download_artifacts(run, PATCH, folder)).read_bytes()


def _others(record: Record, workspace: Workspace) -> list[str]:
    """Return the files and parameters of a folder that differ from those of the runs."""
    recorded = {
        path: md5 for run in record.own() for path, md5 in cached_stages.hashes(run, "deps").items()
    }
    code = {path: md5 for path, md5 in recorded.items() if workspace.pipeline.maker(path) is None}
    here = workspace.hashes(code)
    values = workspace.params(*workspace.pipeline.stages.values())
    params = [
        key
        for key, value in sorted(record.parent.data.params.items())
        if str(values.get(key)) != value
    ]
    named = (key.rpartition(":") for key in params)
    return [path for path in sorted(code) if here.get(path) != code[path]] + [
        f"{file or settings.PARAMS} ({key})" for file, _, key in named
    ]
