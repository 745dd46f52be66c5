"""Find or create runs by tags: a parent per experiment, a child per attempt at a stage."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException

from retrace import event_log
from retrace.event_log import Event
from retrace.store import (
    backend,
    entries,
    filters,
    groups,
    lifecycle,
    names,
    run_tags,
    sweep_runs,
)
from retrace.system import processes

DURATION = "stages_s"  # metric of an experiment's run


@dataclass(frozen=True)
class Pair:
    """The two runs that show a stage, and their MLflow experiment."""

    experiment: str
    parent: str
    child: str

    def targets(self, event: Event) -> tuple[str, ...]:
        """Return the runs that show an event: the child, and for a summary also the parent."""
        return (self.child, self.parent) if event.get("headline") else (self.child,)


def pair(client: MlflowClient, start: Event) -> Pair:
    """Find or create the runs of an event log. This takes the lock: stages may share a parent."""
    with backend.lock():
        experiment = backend.experiment_of(client, experiment_name(start))
        parent_id = parent(client, experiment, start)
        child = run_tags.find(client, [experiment], "journal", start["id"])
        if child is None:  # a user may have deleted it while the stage ran
            child = lifecycle.first(client, experiment, {run_tags.hidden("journal"): start["id"]})
        if child is None:
            attempt = len(children(client, experiment, parent_id, start["stage"])) + 1
            tags = {
                "mlflow.parentRunId": parent_id,
                "retrace.stage": start["stage"],
                run_tags.hidden("journal"): start["id"],
                run_tags.hidden("attempt"): str(attempt),
                run_tags.hidden("process"): processes.to_line(start["process"]),
                run_tags.hidden("machine"): start["machine"],
                run_tags.hidden("inputs"): start["inputs"],
            }
            tags |= origin(start, start.get("source", "dvc.yaml"))
            tags |= {run_tags.hidden("wrapped"): "true"} if start.get("is_wrapped") else {}
            tags |= run_tags.of_deps(start["deps"], start.get("data", ()))
            name = start["stage"] if attempt == 1 else f"{start['stage']} ({attempt})"
            child = client.create_run(experiment, start["time"], names.tags(tags), title(name))
            update_status(client, experiment, parent_id)
    return Pair(experiment, parent_id, child.info.run_id)


def experiment_name(start: Event) -> str:
    """Return the name of an event log's MLflow experiment."""
    return start.get("mlflow_experiment") or start["dataset"]  # the latter before December 2026


def parent(client: MlflowClient, experiment: str, start: Event) -> str:
    """Find or create the experiment's run and return its id. Call it under the store's lock."""
    run = lifecycle.first(client, experiment, {"retrace.key": start["key"]})
    named = start["experiment"].get("dvc.exp_name")
    if run is None:
        tags = parent_tags(start, "dvc.yaml")
        name = named or unnamed(start["key"])
        run = client.create_run(experiment, start["time"], names.tags(tags), title(name))
    elif named and named != run.data.tags.get("dvc.exp_name"):  # DVC gave it another name
        tags = naming(run, named) | start["experiment"]
        entries.log_tags(client, run.info.run_id, tags)
        if "dvc.exp_rev" in run.data.tags:
            client.delete_tag(run.info.run_id, "dvc.exp_rev")
    sweep = start.get("sweep")
    if sweep:
        sweep_runs.adopt(client, experiment, run.info.run_id, sweep, start["user"], start["time"])
    return run.info.run_id


def unnamed(key: str) -> str:
    """Return the name of the run of an experiment that DVC has not named."""
    return f"repro-{key[:7]}"


def naming(run: Run, name: str) -> dict[str, str]:
    """Return the tag that names an experiment's run; nothing if a user has renamed it."""
    tags = run.data.tags
    ours = (title(tags.get("dvc.exp_name", "")), unnamed(tags.get("retrace.key", "")))
    return {"mlflow.runName": title(name)} if run.info.run_name in ours else {}


def parent_tags(start: Event, source: str) -> dict[str, str]:
    """Return the tags with which an experiment's run is created."""
    tags = {"retrace.key": start["key"]} | origin(start, source)
    return tags | ({groups.TAG: start["group"]["key"]} if start.get("group") else {})


def children(client: MlflowClient, experiment: str, parent: str, stage: str = "") -> list[Run]:
    """Return the attempts at the stages of a parent, or at one `stage`, oldest first."""
    query = filters.equals(filters.tag("mlflow.parentRunId"), parent)
    query += f" and {filters.equals(filters.tag('retrace.stage'), stage)}" if stage else ""
    runs = client.search_runs([experiment], query, order_by=["start_time ASC"])
    return [run for run in runs if _is_of_stage(run, stage)]


def _is_of_stage(run: Run, stage: str) -> bool:
    """Return whether a run is an attempt at `stage`, or at any stage if it is empty."""
    own = run.data.tags.get("retrace.stage")
    return own == names.storable(stage) if stage else own is not None


def update_status(client: MlflowClient, experiment: str, parent: str) -> None:
    """Set the parent's status, its end and its links to the stages' runs, from its children."""
    attempts = children(client, experiment, parent)
    if attempts:
        _set_status(client, parent, attempts)
        _link_stages(client, parent, attempts)


def _set_status(client: MlflowClient, parent: str, attempts: Sequence[Run]) -> None:
    """Set the parent's status: RUNNING if any attempt is, else that of the newest.

    MLflow's page shows the time from start to end as the duration, and a start cannot be changed.
    So the parent's end is its start plus the time in which its stages ran.
    """
    if any(run.info.status == "RUNNING" for run in attempts):
        client.update_run(parent, "RUNNING")
    else:
        began = client.get_run(parent).info.start_time
        client.set_terminated(parent, attempts[-1].info.status, began + _working_ms(attempts))


def _link_stages(client: MlflowClient, parent: str, attempts: Sequence[Run]) -> None:
    """Set the hidden tag `run.<stage>` to the newest run that finished the stage, else the newest.

    A finished run replaces the link to another parent's run.
    """
    by_stage = _latest(attempts)
    tags = {run_tags.hidden(f"run.{name}"): run.info.run_id for name, run in by_stage.items()}
    entries.log_tags(client, parent, tags)
    linked = client.get_run(parent).data.tags
    for name, run in by_stage.items():
        link = names.encode(f"retrace.cached.{name}")
        if run.info.status == "FINISHED" and link in linked:
            client.delete_tag(parent, link)


def log_duration(client: MlflowClient, parent: str, stages: Collection[str]) -> None:
    """Log the seconds that the results of all stages took, once there is a finished run of each.

    A stage from DVC's cache counts with the time of the run that made its outputs.
    """
    tags = client.get_run(parent).data.tags
    ids = [run_tags.linked_run(tags, stage) for stage in stages]
    linked = [lifecycle.find(client, each) for each in ids if each]
    known = [run.info for run in linked if run]
    if not stages or len(known) < len(stages) or any(info.status != "FINISHED" for info in known):
        return
    times = [(info.start_time, info.end_time or info.start_time) for info in known]
    seconds = sum(end - begin for begin, end in times) / 1000
    newest = max(end for _, end in times)
    entries.log_metrics(client, parent, entries.points({DURATION: seconds}, newest))


def _working_ms(attempts: Iterable[Run]) -> int:
    """Return the milliseconds in which at least one of the runs, the oldest first, was running."""
    total = 0
    until = 0
    for run in attempts:
        ended = run.info.end_time or run.info.start_time
        total += max(0, ended - max(run.info.start_time, until))
        until = max(until, ended)
    return total


def close_abandoned(client: MlflowClient) -> int:
    """Close the RUNNING runs of this machine whose process no longer exists; return how many."""
    return sum(_close(client, run) for run in abandoned(client))


def abandoned(client: MlflowClient) -> list[Run]:
    """Return the RUNNING runs of this machine whose process and event log no longer exist."""
    running = backend.search_runs(
        client, backend.experiments(client), "attributes.status = 'RUNNING'"
    )
    lines = [(run, run_tags.value(run.data.tags, "process")) for run in running]
    pending = event_log.pending_processes()
    return [
        run
        for run, line in lines
        if line and line not in pending and not processes.alive(processes.from_line(line))
    ]


def title(name: str) -> str:
    """Return the name of a run, in the length that a database server can store."""
    return names.storable(name, names.MAX_RUN_NAME)


def _close(client: MlflowClient, run: Run) -> bool:
    """Set the run to KILLED; return False if it belongs to a member whose own sync closes it."""
    try:
        client.set_tag(
            run.info.run_id, "retrace.error", "its process and its event log no longer exist"
        )
    except MlflowException as error:
        if error.error_code != "PERMISSION_DENIED":
            raise
        return False
    client.set_terminated(run.info.run_id, "KILLED")
    with backend.lock():
        update_status(client, run.info.experiment_id, run.data.tags["mlflow.parentRunId"])
    return True


def _latest(attempts: Iterable[Run]) -> dict[str, Run]:
    """Return the newest finished attempt by stage, else the newest."""
    chosen: dict[str, Run] = {}
    for run in attempts:
        stage = run.data.tags["retrace.stage"]
        is_finished = run.info.status == "FINISHED"
        if stage not in chosen or is_finished or chosen[stage].info.status != "FINISHED":
            chosen[stage] = run
    return chosen


def origin(start: Event, source: str) -> dict[str, str]:
    """Return the tags of a run's origin."""
    tags = {
        "mlflow.source.type": "LOCAL",
        "mlflow.source.name": source,
        "mlflow.user": start["user"],
    }
    tags |= start["experiment"]
    return tags | ({"mlflow.source.git.commit": start["commit"]} if start["commit"] else {})
