"""Summarize experiments of a group, such as the folds of a cross-validation, as one run in MLflow.

The run has the mean and the spread of each metric over the finished experiments.
"""

from collections.abc import Mapping
from statistics import fmean, stdev
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Run

from retrace.event_log import Event
from retrace.store import entries, filters, lifecycle, names, run_tags

TAG = "retrace.folds"  # tag of each experiment's run: the key of its group
SUMMARY = "retrace.folds.summary"  # tag of the group's run


def summarize(client: MlflowClient, experiment: str, start: Event) -> None:
    """Log mean and standard deviation of each metric of the group to its run.

    The metrics are `<metric>_mean` and `<metric>_spread`; the step is the number of finished
    experiments. Their runs become children of the group's run.
    """
    group = start["group"]
    query = filters.equals(filters.tag(TAG), group["key"])
    runs = client.search_runs([experiment], query, order_by=["start_time ASC"])
    done = [run for run in runs if _is_measured(client, run, group["stages"])]
    if not done:
        return
    # Not the current time: uploading an experiment again must change nothing.
    now = max(run.info.end_time or run.info.start_time for run in done)
    summary = _summary(client, experiment, start)
    for run in done:
        client.set_tag(run.info.run_id, "mlflow.parentRunId", summary)
    summarized: dict[str, float] = {}
    for key in sorted(set.intersection(*(set(run.data.metrics) for run in done))):
        values = [run.data.metrics[key] for run in done]
        name = names.decode(key, done[0].data.tags)
        summarized[f"{name}_mean"] = fmean(values)
        summarized[f"{name}_spread"] = stdev(values) if len(values) > 1 else 0.0
    entries.log_metrics(client, summary, entries.points(summarized, now, len(done)), summarized)
    client.set_tag(summary, "retrace.folds.done", f"{len(done)} of {group['size']}")
    client.set_terminated(summary, "FINISHED", now)


def _is_measured(client: MlflowClient, run: Run, stages: list[str]) -> bool:
    """Return whether all these stages of an experiment are finished, its own or linked ones."""
    ids = [run_tags.linked_run(run.data.tags, stage) for stage in stages]
    linked = [lifecycle.find(client, each) if each else None for each in ids]
    return all(run and run.info.status == "FINISHED" for run in linked)


def _summary(client: MlflowClient, experiment: str, start: Event) -> str:
    group: Mapping[str, Any] = start["group"]
    query = filters.equals(filters.tag(SUMMARY), group["key"])
    runs: list[Run] = list(client.search_runs([experiment], query, max_results=1))
    if runs:
        return runs[0].info.run_id
    tags = {SUMMARY: group["key"], "mlflow.user": start["user"], "mlflow.source.name": "dvc.yaml"}
    name = f"{group['size']} {group['of']}"
    run = client.create_run(experiment, start["time"], names.tags(tags), name).info.run_id
    params = {key: value for key, value in start["params"].items() if key != group["over"]}
    entries.log_params(client, run, params)
    return run
