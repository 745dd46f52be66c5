"""Link experiments to the runs that made the outputs that DVC took from its cache."""

import json
from collections.abc import Collection, Mapping
from itertools import count, islice, takewhile

from mlflow import MlflowClient
from mlflow.entities import Run

from retrace.event_log import Event
from retrace.pipeline import identity
from retrace.store import backend, entries, filters, models, names
from retrace.store.runs import Pair

# Tag of a child: its summary metrics, which the parent has too, as JSON. Long JSON goes on in tags
# with .2, .3 and so on appended.
HEADLINE = "retrace.headline"
FINISHED = "attributes.status = 'FINISHED'"
MAX_CONDITIONS = 5  # of a query: each costs a join


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
        tags = {"retrace.inputs": inputs}
        run = backend.first(client, [runs.experiment], tags, FINISHED)
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
    tags = {names.encode(f"retrace.made.{md5}") for md5 in md5s}
    conditions = [
        filters.equals(filters.tag("retrace.stage"), stage),
        FINISHED,
        *(filters.exists(f"retrace.made.{md5}") for md5 in islice(md5s, MAX_CONDITIONS)),
    ]
    query = " and ".join(conditions)
    runs = backend.search_runs(client, [experiment], query, order=["start_time ASC"])
    return next((run for run in runs if tags <= run.data.tags.keys()), None) if md5s else None


def link(client: MlflowClient, parent: str, cached: Mapping[str, Run]) -> None:
    """Link the parent to these runs by stage, unless a run of its own has finished the stage."""
    tags = client.get_run(parent).data.tags
    for stage, run in cached.items():
        own = tags.get(names.encode(f"retrace.run.{stage}"))
        if own and client.get_run(own).info.status == "FINISHED":
            continue
        headline = summary(run)
        at = run.info.end_time or run.info.start_time
        entries.log_metrics(client, parent, entries.points(headline, at), headline)
        entries.log_tags(client, parent, {f"retrace.cached.{stage}": run.info.run_id})
        for model in run.outputs.model_outputs if run.outputs else []:
            models.add_output(client, parent, model.model_id)


def summary_tags(metrics: Mapping[str, float]) -> dict[str, str]:
    """Return the tags that keep a child's summary metrics, for `summary`."""
    text = json.dumps(metrics)
    parts = [text[start : start + names.MAX_TAG] for start in range(0, len(text), names.MAX_TAG)]
    return {_part(number): part for number, part in enumerate(parts, 1)}


def summary(run: Run) -> dict[str, float]:
    """Return the summary metrics of a child."""
    tags = run.data.tags
    parts = takewhile(lambda part: part is not None, (tags.get(_part(n)) for n in count(1)))
    return json.loads("".join(filter(None, parts)) or "{}")


def _part(number: int) -> str:
    return HEADLINE if number == 1 else f"{HEADLINE}.{number}"


def hashes(run: Run, kind: str) -> dict[str, str]:
    """Return the MD5 by path of the run's `deps` or `outs`."""
    prefix = f"dvc.{kind}."
    return {
        names.decode(tag, run.data.tags).removeprefix(prefix): md5
        for tag, md5 in run.data.tags.items()
        if tag.startswith(prefix)
    }
