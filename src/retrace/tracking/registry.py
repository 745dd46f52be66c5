"""MLflow's model registry: the versions of a model, and the aliases that people call them by."""

import json
import re
from collections.abc import Iterator, Mapping

from mlflow import MlflowClient
from mlflow.entities import LoggedModel
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.utils.mlflow_tags import MLFLOW_MODEL_VERSIONS

from retrace.tracking import store

MODEL = re.compile(r"models:/(m-[0-9a-f]{32})")  # where a version says that its files are
ABSENT = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE", "NOT_FOUND")  # how MLflow says that there is none


def version(
    client: MlflowClient, name: str, *, alias: str | None = None, number: str | None = None
) -> ModelVersion | None:
    """The version of `name` with that alias, or that number, if there is one."""
    try:
        return client.get_model_version_by_alias(name, alias) if alias else client.get_model_version(name, str(number))
    except MlflowException as error:
        if error.error_code not in ABSENT:
            raise
        return None


def versions(client: MlflowClient, name: str) -> Iterator[ModelVersion]:
    """All of them, a page at a time."""
    token: str | None = None
    while True:
        page = client.search_model_versions(f"name = '{name}'", max_results=1000, page_token=token)
        yield from page
        token = page.token
        if not token:
            return


def model_of(version: ModelVersion) -> str | None:
    """MLflow's id of the model that the version is; None where it is one that no stage has logged."""
    found = MODEL.fullmatch(version.source or "")
    return found[1] if found else None


def addresses(client: MlflowClient) -> list[str]:
    """Of all aliases, as `mlflow models serve` takes them."""
    return [f"models:/{model.name}@{alias}" for model in client.search_registered_models() for alias in model.aliases]


def add(client: MlflowClient, name: str, model: LoggedModel, tags: Mapping[str, str]) -> ModelVersion:
    """A new version of `name`, which is made if it is not there; call it under the store's lock."""
    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    place = f"models:/{model.model_id}"
    with store.known():
        made = client.create_model_version(name, place, model.source_run_id, dict(tags), model_id=model.model_id)
    listed = [*json.loads(model.tags.get(MLFLOW_MODEL_VERSIONS, "[]")), {"name": name, "version": made.version}]
    client.set_logged_model_tags(model.model_id, {MLFLOW_MODEL_VERSIONS: json.dumps(listed)})  # what its page shows
    return made
