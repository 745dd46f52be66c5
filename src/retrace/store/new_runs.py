"""Create finished runs: one by one, or in a local database hundreds in one transaction.

MLflow (3.17) has no function that creates many runs; through its client, one takes 40 ms. So its
tables of a local database are written directly, with the rows that the client would write;
tests/store/test_new_runs.py fails if they differ. Where these tables are not as expected, the
client is used.
"""

import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from mlflow import MlflowClient
from mlflow.entities import Metric

from retrace.store import backend, entries, names


@dataclass(frozen=True)
class Content:
    """What a finished run has besides its first tags. Names are not encoded yet."""

    time: int  # when it ended, in milliseconds since 1970
    params: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)

    def points(self) -> list[Metric]:
        """Return the metrics as points of MLflow."""
        return entries.points(self.metrics, self.time)


class NewRuns(Protocol):
    """Creates runs in two steps, because parent and child have the id of each other."""

    is_fast: bool

    def create(self, experiment: str, name: str, time: int, tags: Mapping[str, str]) -> str:
        """Create a run that began at a time, and return its id."""
        ...

    def finish(self, run: str, content: Content) -> None:
        """Log the content of a run, also of an existing one, and set its status to FINISHED."""
        ...

    def flush(self) -> None:
        """Store everything until now."""
        ...


class ClientRuns:
    """Creates runs with MLflow's client."""

    is_fast = False

    def __init__(self, client: MlflowClient) -> None:
        self._client = client

    def create(self, experiment: str, name: str, time: int, tags: Mapping[str, str]) -> str:
        return self._client.create_run(experiment, time, names.tags(tags), name).info.run_id

    def finish(self, run: str, content: Content) -> None:
        log(self._client, run, content)
        self._client.set_terminated(run, "FINISHED", content.time)

    def flush(self) -> None:
        pass


class DatabaseRuns:
    """Creates runs in MLflow's tables. Raises an exception if they are not as expected."""

    is_fast = True

    def __init__(self, client: MlflowClient) -> None:
        from mlflow.store.tracking.dbmodels import models

        self._client = client
        self._store: Any = client._tracking_client.store
        self._sessions = self._store.ManagedSessionMaker
        self._models = models
        self._locations: dict[str, str] = {}
        self._new: dict[str, dict[str, Any]] = {}
        self._tags: dict[str, dict[str, str]] = {}  # encoded
        self._rows: dict[Any, list[dict[str, Any]]] = {}
        for model, columns in _columns(models).items():
            if not columns <= set(model.__table__.columns.keys()):
                raise AttributeError(model.__name__)

    def create(self, experiment: str, name: str, time: int, tags: Mapping[str, str]) -> str:
        run = uuid.uuid4().hex
        self._new[run] = {
            "run_uuid": run,
            "name": name,
            "source_type": "UNKNOWN",
            "source_name": "",
            "entry_point_name": "",
            "user_id": tags.get("mlflow.user", "unknown"),
            "start_time": time,
            "source_version": "",
            "lifecycle_stage": "active",
            "artifact_uri": f"{self._location(experiment)}/{run}/artifacts",
            "experiment_id": int(experiment),
        }
        self._tags[run] = names.tags({"mlflow.runName": name} | dict(tags))
        return run

    def finish(self, run: str, content: Content) -> None:
        if run not in self._new:  # it exists
            ClientRuns(self._client).finish(run, content)
            return
        models = self._models
        row = self._new.pop(run) | {"status": "FINISHED", "end_time": content.time}
        self._add(models.SqlRun, [row])
        tags = self._tags.pop(run) | names.tags(content.tags)
        tags |= names.full_names(content.metrics) | names.full_names(content.params)
        self._add(models.SqlTag, [_row(run, key, value) for key, value in tags.items()])
        params = {
            names.encode(key): names.storable(str(value), names.MAX_PARAM)
            for key, value in content.params.items()
        }
        self._add(models.SqlParam, [_row(run, key, value) for key, value in params.items()])
        points = {point.key: self._point(run, point) for point in content.points()}
        self._add(models.SqlMetric, list(points.values()))
        self._add(models.SqlLatestMetric, list(points.values()))

    def flush(self) -> None:
        from sqlalchemy import insert

        with self._sessions(read_only=False) as session:
            for model, rows in self._rows.items():  # runs first, which the others refer to
                session.execute(insert(model), rows)
        self._rows = {}

    def _add(self, model: Any, rows: list[dict[str, Any]]) -> None:
        if rows:
            self._rows.setdefault(model, []).extend(rows)

    def _point(self, run: str, point: Metric) -> dict[str, Any]:
        is_nan, value = self._store.sanitize_metric_value(point.value)
        at = {"timestamp": point.timestamp, "step": point.step, "is_nan": is_nan}
        return _row(run, point.key, value) | at

    def _location(self, experiment: str) -> str:
        if experiment not in self._locations:
            location = self._client.get_experiment(experiment).artifact_location
            self._locations[experiment] = str(location).rstrip("/")
        return self._locations[experiment]


def log(client: MlflowClient, run: str, content: Content) -> None:
    """Log content to a run, whose status stays as it is."""
    entries.log_params(client, run, content.params)
    entries.log_metrics(client, run, content.points(), content.metrics)
    entries.log_tags(client, run, content.tags)


def writer(client: MlflowClient) -> NewRuns:
    """Return the fastest way to create runs in this store."""
    if backend.sqlite_file(client.tracking_uri):
        try:
            return DatabaseRuns(client)
        except (ImportError, AttributeError):
            pass  # of another version
    return ClientRuns(client)


def _row(run: str, key: str, value: Any) -> dict[str, Any]:
    return {"run_uuid": run, "key": key, "value": value}


def _columns(models: Any) -> dict[Any, set[str]]:
    """Return the columns that are written, by table."""
    named = {"run_uuid", "key", "value"}
    measured = named | {"timestamp", "step", "is_nan"}
    run = {"run_uuid", "name", "status", "start_time", "end_time", "artifact_uri", "experiment_id"}
    return {
        models.SqlRun: run,
        models.SqlTag: named,
        models.SqlParam: named,
        models.SqlMetric: measured,
        models.SqlLatestMetric: measured,
    }
