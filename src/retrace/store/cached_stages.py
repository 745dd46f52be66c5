"""Link experiments to the runs that made the outputs that DVC took from its cache."""

import json
from collections.abc import Collection, Mapping

from mlflow import MlflowClient
from mlflow.entities import Run

from retrace.event_log import Event
from retrace.pipeline import identity
from retrace.store import entries, filters, lifecycle, models, run_tags
from retrace.store.run_tags import hashes
from retrace.store.runs import Pair

# Tag of a child: its summary metrics, which the parent has too, as JSON. Long JSON goes on in tags
# with .2, .3 and so on appended.
HEADLINE = "retrace.headline"
FINISHED = "attributes.status = 'FINISHED'"


def complete(client: MlflowClient, runs: Pair, start: Event, outs: Mapping[str, str]) -> None:
    """Link the parent of a stage, which made `outs`, to the runs of stages that DVC did not run.

    Set `retrace.cached.<stage>` and the summary metrics on the parent: for earlier stages, found by
    the MD5 of the files that this stage read; and for later stages that DVC will not rerun, found
    by the inputs that they will have. If DVC runs one of them, its own run replaces the link.
    """
    cached = upstream(client, runs.experiment, start["deps"], start["makers"])
    known = start["deps"] | outs
    for run in cached.values():
        known |= hashes(run, "outs")
    for stage, plan in start["later"].items() if outs else ():
        deps = {path: md5 or known.get(path) for path, md5 in plan["deps"].items()}
        if None in deps.values():
            continue
        hashed = {path: md5 for path, md5 in deps.items() if md5}
        inputs = identity.inputs(stage, plan.get("commands", ()), plan["params"], hashed)
        run = run_tags.find(client, [runs.experiment], "inputs", inputs, FINISHED)
        if run:
            cached[stage] = run
            known |= hashes(run, "outs")
    link(client, runs.parent, cached)


def upstream(
    client: MlflowClient, experiment: str, deps: Mapping[str, str], makers: Mapping[str, str]
) -> dict[str, Run]:
    """Return the runs that made these dependencies, those that made theirs, and so on, by stage."""
    runs: dict[str, Run] = {}
    for stage in dict.fromkeys(makers[path] for path in deps if path in makers):
        own = {md5 for path, md5 in deps.items() if makers.get(path) == stage}
        run = maker(client, experiment, stage, own)
        if run:
            runs |= upstream(client, experiment, hashes(run, "deps"), makers) | {stage: run}
    return runs


def maker(client: MlflowClient, experiment: str, stage: str, md5s: Collection[str]) -> Run | None:
    """Return the oldest finished run of `stage` that made files or folders with all these MD5s.

    None if there are none.
    """
    of_stage = filters.equals(filters.tag("retrace.stage"), stage)
    runs = run_tags.makers(client, [experiment], md5s, (of_stage, FINISHED))
    return next(iter(runs), None)


def link(client: MlflowClient, parent: str, cached: Mapping[str, Run]) -> None:
    """Link the parent to these runs by stage, unless a run of its own has finished the stage."""
    tags = client.get_run(parent).data.tags
    for stage, run in cached.items():
        own = lifecycle.find(client, run_tags.stage_run(tags, stage) or "")
        if own and own.info.status == "FINISHED":
            continue
        headline = summary(run)
        at = run.info.end_time or run.info.start_time
        entries.log_metrics(client, parent, entries.points(headline, at), headline)
        entries.log_tags(client, parent, {f"retrace.cached.{stage}": run.info.run_id})
        for model in run.outputs.model_outputs if run.outputs else []:
            models.add_output(client, parent, model.model_id)


def summary_tags(metrics: Mapping[str, float]) -> dict[str, str]:
    """Return the tags that keep a child's summary metrics, for `summary`."""
    return run_tags.parts(HEADLINE, json.dumps(metrics))


def summary(run: Run) -> dict[str, float]:
    """Return the summary metrics of a child."""
    return json.loads(run_tags.joined(run.data.tags, HEADLINE) or "{}")
