"""Restore the code, parameters and images of a run into a folder, byte for byte."""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from retrace import settings
from retrace.errors import RetraceError
from retrace.pipeline import hashing, identity, params_file
from retrace.provenance import reproduce
from retrace.provenance.locations import PATCH
from retrace.provenance.record import Record
from retrace.provenance.reproduce import Origin
from retrace.store import backend, cached_stages

CODE = ("src/", "stages/")


def restore(client: backend.MlflowClient, record: Record, tree: Path) -> Origin:
    """Write the code, parameters and images of the run into `tree`; return where they came from.

    Raises RetraceError if no commit or patch that still exists has the experiment's key.
    """
    failed: list[str] = []
    for origin in dict.fromkeys(_origins(client, record)):
        try:
            reproduce.check_out_origin(tree, origin)
            values = params_file.read(tree / settings.PARAMS)
            read = (
                cached_stages.hashes(record.made_by["download"], "deps")
                if "download" in record.made_by
                else {}
            )
            if values.get("dataset") == "image_folder" and str(settings.IMAGES) in read:
                reproduce.restore_images(tree, read[str(settings.IMAGES)])
        except RetraceError as error:
            failed.append(str(error))
            continue
        if identity.key(values, tree) == record.parent.data.tags["retrace.key"]:
            return origin
        others = ", ".join(_others(record, values, tree)) or "a file that no stage depends on"
        lost = "changes that were neither committed nor saved with the run cannot be restored"
        failed.append(f"{origin} differs from what the run used, in {others}; {lost}")
    no_commit = "ran outside git, so its code was not recorded"
    raise RetraceError(f"{record.name}: {failed[0] if failed else no_commit}")


def _origins(client: backend.MlflowClient, record: Record) -> Iterator[Origin]:
    """Yield the commits and patches that may have the code, the most likely first."""
    for run in record.own():
        if commit := run.data.tags.get("mlflow.source.git.commit"):
            yield Origin(commit, _patch(client, run.info.run_id))
    for tag in ("dvc.exp_rev", "mlflow.source.git.commit"):
        if commit := record.parent.data.tags.get(tag):
            yield Origin(commit)


def _patch(client: backend.MlflowClient, run: str) -> bytes:
    if PATCH not in {file.path for file in client.list_artifacts(run)}:
        return b""
    with tempfile.TemporaryDirectory() as folder:
        return Path(client.download_artifacts(run, PATCH, folder)).read_bytes()


def _others(record: Record, values: params_file.Values, tree: Path) -> list[str]:
    """Return the code files and parameters that differ between `tree` and the experiment's runs."""
    recorded = {
        path: md5 for run in record.own() for path, md5 in cached_stages.hashes(run, "deps").items()
    }
    files = [
        path
        for path, md5 in sorted(recorded.items())
        if path.startswith(CODE)
        and not ((tree / path).exists() and hashing.md5(tree / path) == md5)
    ]
    chosen = sorted(record.parent.data.params.items())
    return files + [
        f"{settings.PARAMS} ({key})" for key, value in chosen if str(_at(values, key)) != value
    ]


def _at(values: Any, key: str) -> Any:
    for part in key.split("."):
        values = values.get(part) if isinstance(values, dict) else None
    return values
