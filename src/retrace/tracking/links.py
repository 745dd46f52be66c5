"""The stages that DVC did not run, because what they would make was there: linked to the runs that made it."""

import json
from collections.abc import Mapping

from mlflow import MlflowClient
from mlflow.entities import Metric, Run

from retrace import identity
from retrace.journal import Event
from retrace.tracking import models, store
from retrace.tracking.runs import Pair

HEADLINE = "retrace.headline"  # of a child: the figures that its stage gave to the parent
FINISHED = "attributes.status = 'FINISHED'"


def complete(client: MlflowClient, runs: Pair, start: Event, outs: Mapping[str, str]) -> None:
    """The parent of a stage has `retrace.cached.<stage>` and the headline metrics of the stages before it, by what it
    read, and of those after it that need not run again now that it has made `outs`, by what they would read.

    Should DVC run one of those all the same, its own run takes the place of the link.
    """
    found = above(client, runs.experiment, start["deps"], start["makers"])
    made = start["deps"] | outs
    for run in found.values():
        made |= hashes(run, "outs")
    for stage, plan in start["later"].items() if outs else ():
        deps = {path: md5 or made.get(path) for path, md5 in plan["deps"].items()}
        if None in deps.values():
            continue
        known = identity.inputs(stage, plan["params"], {path: md5 for path, md5 in deps.items() if md5})
        if run := store.first(client, [runs.experiment], {"retrace.inputs": known}, FINISHED):
            found[stage] = run
            made |= hashes(run, "outs")
    show(client, runs.parent, found)


def above(client: MlflowClient, experiment: str, deps: Mapping[str, str], makers: Mapping[str, str]) -> dict[str, Run]:
    """By stage, the runs that made these dependencies, and what those were made from, and so on."""
    found: dict[str, Run] = {}
    for stage in dict.fromkeys(makers[path] for path in deps if path in makers):
        made = {path: md5 for path, md5 in deps.items() if makers.get(path) == stage}
        if run := made_by(client, experiment, stage, made):
            found |= above(client, experiment, hashes(run, "deps"), makers) | {stage: run}
    return found


def made_by(client: MlflowClient, experiment: str, stage: str, outs: Mapping[str, str]) -> Run | None:
    """The oldest run of `stage` that made these very bytes."""
    tags = {"retrace.stage": stage} | {f"dvc.outs.{path}": md5 for path, md5 in outs.items()}
    return store.first(client, [experiment], tags, FINISHED)


def show(client: MlflowClient, parent: str, found: Mapping[str, Run]) -> None:
    """The parent is linked to these runs, each for its stage, but where a run of its own has finished that stage."""
    above = client.get_run(parent)
    for stage, run in found.items():
        own = above.data.tags.get(f"retrace.run.{stage}")
        if own and client.get_run(own).info.status == "FINISHED":
            continue
        headline = json.loads(run.data.tags.get(HEADLINE, "{}"))
        at = run.info.end_time or run.info.start_time
        client.log_batch(
            parent,
            metrics=[Metric(name, value, at, 0) for name, value in headline.items()],
            tags=store.tagged({f"retrace.cached.{stage}": run.info.run_id}),
        )
        for model in run.outputs.model_outputs if run.outputs else []:
            models.add_output(client, parent, model.model_id)


def hashes(run: Run, kind: str) -> dict[str, str]:
    """The MD5 by path of the run's `deps` or `outs`."""
    prefix = f"dvc.{kind}."
    return {tag.removeprefix(prefix): md5 for tag, md5 in run.data.tags.items() if tag.startswith(prefix)}
