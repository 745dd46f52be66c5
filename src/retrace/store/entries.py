"""Log tags, params and metrics of any name, in batches as large as MLflow allows."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeVar

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag

from retrace.pipeline.metrics import as_float
from retrace.store import names

MAX_METRICS = 1000  # per batch: MLflow's limits
MAX_PARAMS = 100
MAX_TAGS = 100

Entry = TypeVar("Entry")


def log_tags(client: MlflowClient, run: str, values: Mapping[str, str]) -> None:
    tags = [RunTag(name, value) for name, value in names.tags(values).items()]
    for batch in _batches(tags, MAX_TAGS):
        client.log_batch(run, tags=batch)


def log_params(client: MlflowClient, run: str, values: Mapping[str, Any]) -> None:
    params = [
        Param(names.encode(name), names.storable(str(value), names.MAX_PARAM))
        for name, value in values.items()
    ]
    for batch in _batches(params, MAX_PARAMS):
        client.log_batch(run, params=batch)
    log_tags(client, run, names.full_names(values))


def points(values: Mapping[str, float], time: int, step: int = 0) -> list[Metric]:
    """Return one metric for each value, under the name that its key has in MLflow."""
    return [
        Metric(names.encode(name), as_float(value), time, step) for name, value in values.items()
    ]


def log_metrics(
    client: MlflowClient, run: str, metrics: list[Metric], full: Iterable[str] = ()
) -> None:
    """Log metrics; `full` are their names, which may be longer than MLflow allows."""
    for batch in _batches(metrics, MAX_METRICS):
        client.log_batch(run, metrics=batch)
    log_tags(client, run, names.full_names(full))


def _batches(values: list[Entry], size: int) -> Iterator[list[Entry]]:
    return (values[first : first + size] for first in range(0, len(values), size))
