"""Connect the MLflow runs that a stage's own code made with the stage's run.

They keep what they have: their metrics, names and parents among themselves. Each is tagged with the
id of the stage's run, which lists them; those in the MLflow experiment of the pipeline hang below
it. Runs that the code made in a store of its own are copied into ours. Doing it again changes
nothing.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import Metric, Run

from retrace.event_log import Event
from retrace.store import backend, entries, filters, names, run_context
from retrace.store.runs import Pair

PARENT = "mlflow.parentRunId"
NAME = "mlflow.runName"
MAX_NAMED = 50  # runs that a tag lists


def links(runs: Pair, experiment: str) -> dict[str, str]:
    """Return the tags that connect a run in this MLflow experiment with the stage's run."""
    below = {PARENT: runs.child} if experiment == runs.experiment else {}
    return {run_context.STAGE_RUN: runs.child} | below


def adopt(client: MlflowClient, runs: Pair, start: Event, end: Event) -> list[Run]:
    """Connect and return the runs that the code of a stage made, oldest first.

    Those that it left RUNNING get the status of the stage. A stage that finished although some
    FAILED is tagged with their names: code may try what fails, so that this is no failure.
    """
    own = _own(client, start)
    originals = ((run.data.tags.get(run_context.ORIGINAL), run.info.run_id) for run in own)
    copies = {original: copy for original, copy in originals if original}
    for run in own:
        _connect(client, runs, run, copies)
        if run.info.status == "RUNNING":
            client.set_terminated(run.info.run_id, end["status"], end["time"])
    if own:
        is_open = {"RUNNING": end["status"]}
        failed = [
            each for each in own if is_open.get(each.info.status, each.info.status) == "FAILED"
        ]
        tags = {run_context.RUNS: "\n".join(map(_link, own[:MAX_NAMED]))}
        if failed and end["status"] == "FINISHED":
            tags[run_context.FAILED] = ", ".join(map(_name, failed[:MAX_NAMED]))
        entries.log_tags(client, runs.child, tags)
    return own


def copy(client: MlflowClient, runs: Pair, start: Event, event: Event, files: Path) -> None:
    """Copy a run from a store of the stage's own, an event of kind `run`, with its `files`."""
    source = event["values"]
    original = {run_context.ORIGINAL: source["id"], run_context.ATTEMPT: start["id"]}
    tags = {key: value for key, value in source["tags"].items() if key != NAME}
    with backend.lock():
        known = backend.first(client, [runs.experiment], original)
        tags |= run_context.tags(start) | original | links(runs, runs.experiment)
        tags |= {
            run_context.ORIGINAL_STORE: source["store"],
            run_context.ORIGINAL_EXPERIMENT: source["experiment"],
        }
        above = source["tags"].get(PARENT)
        tags |= {run_context.ORIGINAL_PARENT: above} if above else {}
        run = known or client.create_run(
            runs.experiment,
            source["start_time"],
            names.tags(tags),
            names.storable(source["name"], names.MAX_RUN_NAME),
        )
    run_id = run.info.run_id
    entries.log_params(client, run_id, source["params"])
    points = [
        Metric(names.encode(key), value, at, step) for key, value, at, step in source["metrics"]
    ]
    entries.log_metrics(client, run_id, points, {key for key, *_ in source["metrics"]})
    if files.is_dir():
        client.log_artifacts(run_id, str(files))
    if source["status"] != "RUNNING":
        client.set_terminated(run_id, source["status"], source["end_time"])


def numbers(own: Iterable[Run], start: Event, end: Event) -> list[Event]:
    """Return the last metrics of these runs as events of the stage, which has no other numbers.

    Nested runs count if no other has a metric. A key of several runs has the run's name before it.
    """
    measured = [run for run in own if run.data.metrics]
    ids = {run.info.run_id for run in measured}
    top = [run for run in measured if run.data.tags.get(PARENT) not in ids]
    n_runs = Counter(key for run in top for key in run.data.metrics)
    values = {
        names.decode(key, run.data.tags) if n_runs[key] == 1 else f"{_name(run)}/{key}": value
        for run in top
        for key, value in run.data.metrics.items()
    }
    if not values or end["status"] != "FINISHED":
        return []
    prefix = start.get("metrics_prefix", "")
    summary = {f"{prefix}{key}": value for key, value in values.items()}
    at = {"time": end["time"], "step": 0}
    return [
        {"kind": "metrics", "values": values, **at},
        {"kind": "headline", "values": summary, **at},
    ]


def _own(client: MlflowClient, start: Event) -> list[Run]:
    query = filters.equals(filters.tag(run_context.ATTEMPT), start["id"])
    order = ["start_time ASC"]
    return list(backend.search_runs(client, backend.experiments(client), query, order=order))


def _connect(client: MlflowClient, runs: Pair, run: Run, copies: Mapping[str, str]) -> None:
    """Add the tags that a run lacks; hang a copy below the copy of its original's parent."""
    above = copies.get(run.data.tags.get(run_context.ORIGINAL_PARENT, ""))
    wanted = links(runs, run.info.experiment_id) | ({PARENT: above} if above else {})
    has_parent = PARENT in run.data.tags and run_context.ORIGINAL not in run.data.tags
    lacking = {
        key: value
        for key, value in wanted.items()
        if run.data.tags.get(key) != value and not (key == PARENT and has_parent)
    }
    entries.log_tags(client, run.info.run_id, lacking)
    run.data.tags.update(lacking)


def _name(run: Run) -> str:
    return run.info.run_name or run.info.run_id


def _link(run: Run) -> str:
    return f"{_name(run)}: #/experiments/{run.info.experiment_id}/runs/{run.info.run_id}"
