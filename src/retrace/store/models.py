"""Package models for MLflow, log them, and find them by the MD5 of their weights.

The pipeline provides the function that turns weights into a model that MLflow can serve: an entry
point in the group `retrace.packagers`, called as packager(weights, config, folder).
"""

import shutil
from collections.abc import Callable
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import LoggedModel, LoggedModelOutput, LoggedModelStatus
from mlflow.exceptions import MlflowException

from retrace import plugins
from retrace.errors import DataError
from retrace.store.runs import Pair

MD5 = "retrace.md5"  # tag of a model: the MD5 of its weights

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


def log(client: MlflowClient, runs: Pair, folder: Path, md5: str) -> None:
    """Log the packaged model as an output of the child and of the parent.

    An upload that was interrupted is completed.
    """
    from mlflow.models import Model

    model = _own(client, runs) or client.create_logged_model(
        runs.experiment, "model", runs.child, tags={MD5: md5}
    )
    if model.status != LoggedModelStatus.READY:
        config = Model.load(str(folder))
        config.model_id = model.model_id
        config.run_id = runs.child
        config.save(str(folder / "MLmodel"))
        client.log_model_artifacts(model.model_id, str(folder))
        client.finalize_logged_model(model.model_id, LoggedModelStatus.READY)
    for run in (runs.child, runs.parent):
        add_output(client, run, model.model_id)


def _own(client: MlflowClient, runs: Pair) -> LoggedModel | None:
    query = f"source_run_id = '{runs.child}'"
    models = client.search_logged_models([runs.experiment], query, max_results=1)
    return models[0] if models else None


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
