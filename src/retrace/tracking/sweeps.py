"""A sweep as one run in MLflow: what its best trial reached, and with what, above the trials' own runs."""

from collections.abc import Mapping
from pathlib import Path

from mlflow import MlflowClient

from retrace import journal, machine
from retrace.tracking import store

TAG = "retrace.sweep"  # of a trial's parent run: the sweep's name
SUMMARY = "retrace.sweep.summary"  # of the run above them
BEST = "retrace.sweep.best"  # of that run: the best trial's name; with a key behind it, what it changes


def adopt(client: MlflowClient, experiment: str, parent: str, sweep: str, user: str, at: int) -> None:
    """The parent run of a trial is the sweep's. Call it under the store's lock."""
    above = summary(client, experiment, sweep, user, at)
    client.log_batch(parent, tags=store.tagged({TAG: sweep, "mlflow.parentRunId": above}))


def summary(client: MlflowClient, experiment: str, sweep: str, user: str, at: int) -> str:
    """The id of the sweep's run, found or made; call it under the store's lock. It is FINISHED as soon as it is there,
    for it tells of trials that are over, and a sweep that is killed leaves none that seems to go on.
    """
    found = store.first(client, [experiment], {SUMMARY: sweep})
    if found is None:
        tags = {SUMMARY: sweep, "mlflow.user": user, "mlflow.source.name": "retrace sweep"}
        found = client.create_run(experiment, at, tags, sweep)
        client.set_terminated(found.info.run_id, "FINISHED", at)
    return found.info.run_id


def begin(dataset: str, sweep: str, space: Mapping[str, str], at: int) -> None:
    """MLflow has a run for the sweep, whose parameters are what it searches."""
    client = store.client()
    with store.lock():
        experiment = store.experiment_of(client, dataset)
        above = summary(client, experiment, sweep, machine.user(), at)
    for key, said in space.items():
        client.log_param(above, key, said)


def told(
    dataset: str, sweep: str, n: int, best: tuple[str, str, float], changes: Mapping[str, str], picture: Path | None
) -> None:
    """The sweep's run has what the best trial reached after `n` of them, and the picture. `best` is that trial's name,
    the metric and its value.
    """
    client, at = store.client(), journal.now()
    name, metric, value = best
    with store.lock():
        above = summary(client, store.experiment_of(client, dataset), sweep, machine.user(), at)
    client.log_metric(above, metric, value, at, n)
    old = [tag for tag in client.get_run(above).data.tags if tag.startswith(f"{BEST}.")]
    for tag in set(old) - {f"{BEST}.{key}" for key in changes}:
        client.delete_tag(above, tag)
    tags = {BEST: name, "retrace.sweep.done": str(n)} | {f"{BEST}.{key}": said for key, said in changes.items()}
    client.log_batch(above, tags=store.tagged(tags))
    if picture:
        client.log_artifact(above, str(picture))
    client.set_terminated(above, "FINISHED", at)
