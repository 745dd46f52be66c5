"""Use MLflow's model registry: the versions of a model and their aliases."""

import json
import re
from collections.abc import Iterator, Mapping

from mlflow import MlflowClient
from mlflow.entities import LoggedModel
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.utils.mlflow_tags import MLFLOW_MODEL_VERSIONS

from retrace.store import backend, filters

MODEL = re.compile(r"models:/(m-[0-9a-f]{32})")  # source of a version
# Error codes for a missing version.
ABSENT = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE", "NOT_FOUND")


def version(
    client: MlflowClient, name: str, *, alias: str | None = None, number: str | None = None
) -> ModelVersion | None:
    """Return the version of `name` with this alias or number; None if there is none."""
    try:
        return (
            client.get_model_version_by_alias(name, alias)
            if alias
            else client.get_model_version(name, str(number))
        )
    except MlflowException as error:
        if error.error_code not in ABSENT:
            raise
        return None


def versions(client: MlflowClient, name: str) -> Iterator[ModelVersion]:
    """Yield all versions of a model, page by page."""
    token: str | None = None
    while True:
        page = client.search_model_versions(
            filters.equals("name", name), max_results=1000, page_token=token
        )
        yield from page
        token = page.token
        if not token:
            return


def model_id(version: ModelVersion) -> str | None:
    """Return the id of the version's model; None if no stage logged it."""
    match = MODEL.fullmatch(version.source or "")
    return match[1] if match else None


def addresses(client: MlflowClient) -> list[str]:
    """Return the addresses of all aliases, in the form that `mlflow models serve` accepts."""
    return [
        f"models:/{model.name}@{alias}"
        for model in client.search_registered_models()
        for alias in model.aliases
    ]


def add(
    client: MlflowClient, name: str, model: LoggedModel, tags: Mapping[str, str]
) -> ModelVersion:
    """Add a version to `name`, creating the name if needed. Call it under the store's lock."""
    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    source = f"models:/{model.model_id}"
    with backend.as_default_store():
        version = client.create_model_version(
            name, source, model.source_run_id, dict(tags), model_id=model.model_id
        )
    listed = [
        *json.loads(model.tags.get(MLFLOW_MODEL_VERSIONS, "[]")),
        {"name": name, "version": version.version},
    ]
    # The MLflow UI reads the versions of a model from this tag.
    client.set_logged_model_tags(model.model_id, {MLFLOW_MODEL_VERSIONS: json.dumps(listed)})
    return version
