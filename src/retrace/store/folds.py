"""Summarize a cross-validation as one run in MLflow: mean and spread over the finished folds."""

from statistics import fmean, stdev

from mlflow import MlflowClient
from mlflow.entities import Run

from retrace.event_log import Event
from retrace.store import entries, filters, names

TAG = "retrace.folds"  # tag of each fold's parent run: the same for folds of one cross-validation
SUMMARY = "retrace.folds.summary"  # tag of the parent run of the folds


def summarize(client: MlflowClient, experiment: str, start: Event) -> None:
    """Log mean and standard deviation of each metric of the folds to their summary run.

    The metrics are `<metric>_mean` and `<metric>_spread`; the step is the number of finished folds.
    The folds' runs become children of the summary run.
    """
    query = filters.equals(filters.tag(TAG), start["folds"])
    runs = client.search_runs([experiment], query, order_by=["start_time ASC"])
    done = [run for run in runs if "test_accuracy" in run.data.metrics]
    if not done:
        return
    # Not the current time: uploading a fold again must change nothing.
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
    client.set_tag(summary, "retrace.folds.done", f"{len(done)} of {start['params']['folds']}")
    client.set_terminated(summary, "FINISHED", now)


def _summary(client: MlflowClient, experiment: str, start: Event) -> str:
    query = filters.equals(filters.tag(SUMMARY), start["folds"])
    runs: list[Run] = list(client.search_runs([experiment], query, max_results=1))
    if runs:
        return runs[0].info.run_id
    tags = {SUMMARY: start["folds"], "mlflow.user": start["user"], "mlflow.source.name": "dvc.yaml"}
    name = f"{start['params']['folds']} folds"
    run = client.create_run(experiment, start["time"], tags, name).info.run_id
    params = {key: value for key, value in start["params"].items() if key != "fold"}
    entries.log_params(client, run, params)
    return run
