"""Show a sweep as one run in MLflow, the parent of its trials, with the best trial's metric."""

from collections.abc import Mapping
from pathlib import Path

from mlflow import MlflowClient

from retrace import event_log
from retrace.store import backend, entries, names
from retrace.system import machine

TAG = "retrace.sweep"  # tag of a trial's parent run: the sweep's name
SUMMARY = "retrace.sweep.summary"  # tag of the parent run of the trials
# Tag of that run: the best trial's name; with .<key> appended: its value of a parameter.
BEST = "retrace.sweep.best"


def adopt(
    client: MlflowClient, experiment: str, parent: str, sweep: str, user: str, at: int
) -> None:
    """Make a trial's parent run a child of the sweep's run. Call it under the store's lock."""
    sweep_run = summary(client, experiment, sweep, user, at)
    entries.log_tags(client, parent, {TAG: sweep, "mlflow.parentRunId": sweep_run})


def summary(client: MlflowClient, experiment: str, sweep: str, user: str, at: int) -> str:
    """Find or create the sweep's run and return its id. Call it under the store's lock.

    It is FINISHED from the start: it shows finished trials, and a killed sweep must leave no
    RUNNING run.
    """
    run = backend.first(client, [experiment], {SUMMARY: sweep})
    if run is None:
        tags = {SUMMARY: sweep, "mlflow.user": user, "mlflow.source.name": "retrace sweep"}
        title = names.storable(sweep, names.MAX_RUN_NAME)
        run = client.create_run(experiment, at, names.tags(tags), title)
        client.set_terminated(run.info.run_id, "FINISHED", at)
    return run.info.run_id


def begin(experiment: str, sweep: str, space: Mapping[str, str], at: int) -> None:
    """Create the sweep's run in the MLflow experiment, with the space as its parameters."""
    client = backend.client()
    with backend.lock():
        identity = backend.experiment_of(client, experiment)
        run = summary(client, identity, sweep, machine.user(), at)
    entries.log_params(client, run, space)


def update(
    experiment: str,
    sweep: str,
    n: int,
    best: tuple[str, str, float],
    changes: Mapping[str, str],
    figure: Path | None,
) -> None:
    """Log the best of `n` trials to the sweep's run (name, metric and value), and the plot.

    `experiment` is the name of the MLflow experiment.
    """
    client = backend.client()
    at = event_log.now()
    name, metric, score = best
    with backend.lock():
        identity = backend.experiment_of(client, experiment)
        run = summary(client, identity, sweep, machine.user(), at)
    entries.log_metrics(client, run, entries.points({metric: score}, at, n), [metric])
    chosen = {f"{BEST}.{key}": value for key, value in changes.items()}
    old = {tag for tag in client.get_run(run).data.tags if tag.startswith(f"{BEST}.")}
    for tag in old - names.tags(chosen).keys():
        client.delete_tag(run, tag)
    entries.log_tags(client, run, {BEST: name, "retrace.sweep.done": str(n)} | chosen)
    if figure:
        client.log_artifact(run, str(figure))
    client.set_terminated(run, "FINISHED", at)
