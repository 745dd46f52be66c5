"""One parent run an experiment, one child run an attempt at a stage; each is looked for by its tags, then made."""

from collections.abc import Iterable
from dataclasses import dataclass

from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException

from retrace import processes
from retrace.journal import Event
from retrace.tracking import folds, store, sweeps


@dataclass(frozen=True)
class Pair:
    """The two runs that a stage is shown in, and the MLflow experiment that they are in."""

    experiment: str
    parent: str
    child: str

    def of(self, event: Event) -> tuple[str, ...]:
        return (self.child, self.parent) if event.get("headline") else (self.child,)


def pair(client: MlflowClient, start: Event) -> Pair:
    """The runs of a journal, found or made; the lock keeps two stages from making the same parent."""
    with store.lock():
        experiment = store.experiment_of(client, start["dataset"])
        above = parent(client, experiment, start)
        child = store.first(client, [experiment], {"retrace.journal": start["id"]})
        if child is None:
            attempt = len(children(client, experiment, above, start["stage"])) + 1
            tags = {
                "mlflow.parentRunId": above,
                "retrace.journal": start["id"],
                "retrace.stage": start["stage"],
                "retrace.attempt": str(attempt),
                "retrace.process": processes.written(start["process"]),
                "retrace.machine": start["machine"],
            }
            tags |= _origin(start, f"stages/{start['stage']}.py")
            tags |= {f"dvc.deps.{dep}": md5 for dep, md5 in start["deps"].items()}
            name = start["stage"] if attempt == 1 else f"{start['stage']} ({attempt})"
            child = client.create_run(experiment, start["time"], tags, name)
            settle(client, experiment, above)
    return Pair(experiment, above, child.info.run_id)


def parent(client: MlflowClient, experiment: str, start: Event) -> str:
    """The id of the experiment's run; call it under the store's lock."""
    found = store.first(client, [experiment], {"retrace.key": start["key"]})
    named = start["experiment"].get("dvc.exp_name")
    if found is None:
        tags = {"retrace.key": start["key"]} | _origin(start, "dvc.yaml")
        tags |= {folds.TAG: start["folds"]} if start["folds"] else {}
        name = named or f"repro-{start['key'][:7]}"
        found = client.create_run(experiment, start["time"], tags, name)
    elif named and named != found.data.tags.get("dvc.exp_name"):  # a new name, by which people look for it
        tags = {"mlflow.runName": named} | start["experiment"]
        client.log_batch(found.info.run_id, tags=store.tagged(tags))
        if "dvc.exp_rev" in found.data.tags:
            client.delete_tag(found.info.run_id, "dvc.exp_rev")
    if sweep := start.get("sweep"):
        sweeps.adopt(client, experiment, found.info.run_id, sweep, start["user"], start["time"])
    return found.info.run_id


def children(client: MlflowClient, experiment: str, parent: str, stage: str = "") -> list[Run]:
    """The attempts at the stages of a parent, or at one `stage`, oldest first."""
    asked = f"tags.`mlflow.parentRunId` = '{parent}'" + (f" and tags.`retrace.stage` = '{stage}'" if stage else "")
    found = client.search_runs([experiment], asked, order_by=["start_time ASC"])
    return [run for run in found if "retrace.stage" in run.data.tags]


def settle(client: MlflowClient, experiment: str, parent: str) -> None:
    """The parent says what its children say, in whatever order they were told: RUNNING while one is, else the newest
    one's status; and, for each stage, which run made what is there: the newest that finished, which takes the place of
    a link to another parent's run, else the newest.
    """
    told = children(client, experiment, parent)
    if not told:
        return
    if any(run.info.status == "RUNNING" for run in told):
        client.update_run(parent, "RUNNING")
    else:
        ended = max(run.info.end_time or 0 for run in told)
        client.set_terminated(parent, told[-1].info.status, ended)
    made = _of_stages(told)
    client.log_batch(parent, tags=store.tagged({f"retrace.run.{name}": run.info.run_id for name, run in made.items()}))
    linked = client.get_run(parent).data.tags
    for name, run in made.items():
        if run.info.status == "FINISHED" and f"retrace.cached.{name}" in linked:
            client.delete_tag(parent, f"retrace.cached.{name}")


def close_abandoned(client: MlflowClient) -> int:
    """No run of this machine is RUNNING whose process is gone; returns how many were."""
    return sum(_close(client, run) for run in abandoned(client))


def abandoned(client: MlflowClient) -> list[Run]:
    """The runs of this machine that are RUNNING, and whose process is gone."""
    asked = "attributes.status = 'RUNNING' and tags.`retrace.process` LIKE '%'"
    return [
        run
        for run in store.every(client, store.experiments(client), asked)
        if not processes.alive(processes.read(run.data.tags["retrace.process"]))
    ]


def _close(client: MlflowClient, run: Run) -> bool:
    """Whether the run is KILLED now; not if it is another member's, who closes it with a sync of their own."""
    try:
        client.set_tag(run.info.run_id, "retrace.error", "its process is gone, and its journal as well")
    except MlflowException as error:
        if error.error_code != "PERMISSION_DENIED":
            raise
        return False
    client.set_terminated(run.info.run_id, "KILLED")
    with store.lock():
        settle(client, run.info.experiment_id, run.data.tags["mlflow.parentRunId"])
    return True


def _of_stages(told: Iterable[Run]) -> dict[str, Run]:
    chosen: dict[str, Run] = {}
    for run in told:
        stage = run.data.tags["retrace.stage"]
        if stage not in chosen or run.info.status == "FINISHED" or chosen[stage].info.status != "FINISHED":
            chosen[stage] = run
    return chosen


def _origin(start: Event, source: str) -> dict[str, str]:
    """Tags that say where a run comes from."""
    tags = {"mlflow.source.type": "LOCAL", "mlflow.source.name": source, "mlflow.user": start["user"]}
    tags |= start["experiment"]
    return tags | ({"mlflow.source.git.commit": start["commit"]} if start["commit"] else {})
