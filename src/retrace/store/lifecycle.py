"""Find the runs that were deleted in MLflow, and restore them.

MLflow marks a deleted run, which a user can restore until `mlflow gc` removes it for good. So a run
that is wanted again is restored: a new one in its place would be its second.
"""

import sqlite3
from collections.abc import Collection, Iterator, Mapping
from contextlib import closing

from mlflow import MlflowClient
from mlflow.entities import Run, ViewType
from mlflow.exceptions import MlflowException

from retrace.store import backend, tracking_uri

IDS_PER_QUERY = 100
ACTIVE = "active"


def first(client: MlflowClient, experiment: str, tags: Mapping[str, str]) -> Run | None:
    """Return the oldest run with all these tags; restore one if all are deleted.

    Call it under the store's lock.
    """
    run = backend.first(client, [experiment], tags)
    if run is None:
        run = backend.first(client, [experiment], tags, view=ViewType.DELETED_ONLY)
        if run:
            client.restore_run(run.info.run_id)
    return run


def find(client: MlflowClient, run_id: str) -> Run | None:
    """Return the run with this id, deleted or not; None if there is none."""
    try:
        return client.get_run(run_id) if run_id else None
    except MlflowException as error:
        if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            raise
        return None


def active(client: MlflowClient, ids: Collection[str]) -> set[str]:
    """Return those of these ids that are runs which are not deleted."""
    if not ids:
        return set()
    if file := tracking_uri.sqlite_file(client.tracking_uri):  # MLflow would read all of each run
        query = "SELECT run_uuid FROM runs WHERE lifecycle_stage = ?"
        with closing(sqlite3.connect(file, timeout=backend.LOCK_TIMEOUT_S)) as connection:
            return {row[0] for row in connection.execute(query, (ACTIVE,))}.intersection(ids)
    return {run.info.run_id for run in _read(client, sorted(ids))}


def restore(client: MlflowClient, ids: Collection[str]) -> set[str]:
    """Restore those of these runs that are deleted; return the ids of those that are gone."""
    gone: set[str] = set()
    for run_id in ids:
        run = find(client, run_id)
        if run is None:
            gone.add(run_id)
        elif run.info.lifecycle_stage != ACTIVE:
            client.restore_run(run_id)
    return gone


def restoration(client: MlflowClient, start: str) -> str:
    """Return what restores the deleted run whose id begins with `start`; empty without one."""
    experiments = client.search_experiments(view_type=ViewType.ALL)
    states = {each.experiment_id: each.lifecycle_stage for each in experiments}
    query = f"attributes.run_id LIKE '{start}%'"
    run = next(backend.search_runs(client, list(states), query, view=ViewType.ALL), None)
    if run is None:
        return ""
    command = f"runs restore --run-id {run.info.run_id}"
    if states[run.info.experiment_id] != ACTIVE:
        command = f"experiments restore --experiment-id {run.info.experiment_id}"
    subject = f"run {run.info.run_id} ({run.info.run_name})"
    repair = f"`{tracking_uri.for_shell()}mlflow {command}` restores it"
    return f"{subject} was deleted in MLflow; {repair}"


def _read(client: MlflowClient, ids: list[str]) -> Iterator[Run]:
    experiments = backend.experiments(client)
    for begin in range(0, len(ids), IDS_PER_QUERY):
        listed = ", ".join(f"'{each}'" for each in ids[begin : begin + IDS_PER_QUERY])
        yield from backend.search_runs(client, experiments, f"attributes.run_id IN ({listed})")
