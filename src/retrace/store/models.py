"""Package models for MLflow, log them, and find them by the MD5 of their weights.

The pipeline provides the function that turns weights into a model that MLflow can serve: an entry
point in the group `retrace.packagers`, called as packager(weights, config, folder).
"""

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import yaml
from mlflow import MlflowClient
from mlflow.entities import LoggedModel, LoggedModelOutput, LoggedModelStatus
from mlflow.exceptions import MlflowException

from retrace import plugins
from retrace.errors import DataError
from retrace.store import names
from retrace.store.runs import Pair
from retrace.system.files import within

MD5 = "retrace.md5"  # tag of a model: the MD5 of its weights
PATH = "retrace.path"  # tag of a model: the path of its file or folder in the repository
REFUSED = re.compile(r"[/:.%\"']")  # MLflow refuses these in the name of a model

Packager = Callable[[Path, Path, Path], None]


def packager() -> Packager:
    """Import the installed packager. Raises DataError unless there is exactly one."""
    entries = plugins.entries("packagers")
    if len(entries) != 1:
        installed = ", ".join(entries) or "none"
        raise DataError(
            f"retrace.packagers: {installed} installed as entry points; there should be exactly "
            "one; run `make env`"
        )
    (entry,) = entries.values()
    return entry.load()


def package(weights: Path, config: Path, folder: Path) -> None:
    """Write the model in MLflow's format to `folder`, atomically."""
    unfinished = folder.with_name(".model")
    for left in (folder, unfinished):  # by a killed upload
        shutil.rmtree(left, ignore_errors=True)
    packager()(weights, config, unfinished)
    unfinished.replace(folder)


def complete(client: MlflowClient, model: str) -> LoggedModel:
    """Return the model with this id. Raises DataError unless it was uploaded completely."""
    try:
        logged = client.get_logged_model(model)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        raise DataError(f"model {model}: was deleted from MLflow; name another model") from None
    if logged.status != LoggedModelStatus.READY:
        raise DataError(f"model {model}: its upload is incomplete; `retrace sync` completes it")
    return logged


def log(client: MlflowClient, runs: Pair, files: Path, *, path: str, name: str, md5: str) -> None:
    """Log the model that is `path` in the repository, as an output of the child and of the parent.

    `files` is a copy of the file or folder. An upload that was interrupted is completed.
    """
    model = _own(client, runs, path, md5) or client.create_logged_model(
        runs.experiment,
        names.storable(REFUSED.sub("_", name), names.MAX_EXPERIMENT),
        runs.child,
        tags={MD5: md5, PATH: names.storable(path)},
    )
    if model.status != LoggedModelStatus.READY:
        with TemporaryDirectory() as links:
            _link(files, Path(links))
            _claim(Path(links, "MLmodel"), model)
            client.log_model_artifacts(model.model_id, links)
        client.finalize_logged_model(model.model_id, LoggedModelStatus.READY)
    for run in (runs.child, runs.parent):
        add_output(client, run, model.model_id)


def _own(client: MlflowClient, runs: Pair, path: str, md5: str) -> LoggedModel | None:
    query = f"source_run_id = '{runs.child}' AND tags.`{MD5}` = '{md5}'"
    models = client.search_logged_models([runs.experiment], query)
    stored = names.storable(path)
    return next((model for model in models if model.tags.get(PATH) == stored), None)


def _link(files: Path, links: Path) -> None:
    """Link a file, or all files of a folder, in `links`, under names that MLflow accepts."""
    for file in within(files):
        relative = file.relative_to(files).as_posix() if files.is_dir() else file.name
        link = links / names.encode_path(relative)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(file.resolve())


def _claim(file: Path, model: LoggedModel) -> None:
    """Name the model and its run in an MLmodel. Another file of this name stays as it is."""
    if not file.exists():
        return
    try:
        config = yaml.safe_load(file.read_bytes())
    except (yaml.YAMLError, ValueError, RecursionError):
        return
    if isinstance(config, dict):
        file.unlink()  # a link to the copy, which a repeated upload reads again
        ids = {"model_id": model.model_id, "run_id": model.source_run_id}
        file.write_text(yaml.safe_dump(config | ids, sort_keys=False), encoding="utf-8")


def add_output(client: MlflowClient, run: str, model: str) -> None:
    """Add `model` to the outputs of `run`, unless it is already there."""
    outputs = client.get_run(run).outputs
    if model not in {output.model_id for output in (outputs.model_outputs if outputs else [])}:
        client.log_outputs(run, [LoggedModelOutput(model, 0)])


def by_weights(client: MlflowClient, experiment: str, md5: str) -> str | None:
    """Return the id of the oldest model with these weights; None if there is none."""
    order = [{"field_name": "creation_time", "ascending": True}]
    query = f"tags.`{MD5}` = '{md5}'"
    models = client.search_logged_models([experiment], query, max_results=1, order_by=order)
    return models[0].model_id if models else None
