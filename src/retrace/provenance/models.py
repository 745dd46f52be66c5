"""Find models by a run's id or by a name in MLflow's registry, and find their evaluations."""

import re
from collections.abc import Iterator

from retrace.errors import RetraceError
from retrace.provenance.run_index import RunIndex
from retrace.store import backend, cached_stages, filters, groups, registry, run_tags
from retrace.store import models as logged
from retrace.store.models import LoggedModel
from retrace.system.text import command

SCHEME = "models:/"
NAMED = re.compile(rf"{SCHEME}(?P<name>[^/@]+)(?:@(?P<alias>[^/@]+)|/(?P<version>[0-9]+))")


def resolve_model(name: str) -> LoggedModel:
    """Return the model called `name`: models:/name@alias, models:/name/version, or a run's id.

    Raises RetraceError if there is none.
    """
    index = RunIndex()
    if name.startswith(SCHEME):
        return _registered(index, name)
    run = index.run(name)
    if run is None:
        if reason := index.deleted(name):
            raise RetraceError(reason)
        wanted = f"no model file here, and no run in {index.address}"
        file = next(iter(index.pipeline.models), "a model's file")
        forms = f"give {file}, at least 6 digits of a run's id, or models:/name@alias"
        raise RetraceError(f"{name}: {wanted}; {forms}")
    return model_of_run(index, run)


def model_of_run(index: RunIndex, run: backend.Run) -> LoggedModel:
    """Return the model of an experiment, or the one that a stage's run made or read.

    Raises RetraceError if there is none.
    """
    name = f"run {run.info.run_id[:8]}"
    if groups.SUMMARY in run.data.tags:
        advice = "name one of its child runs (one per fold)"
        raise RetraceError(f"{name} summarizes the folds of a cross-validation; {advice}")
    client = index.client
    known = (logged.by_weights(client, run.info.experiment_id, md5) for md5 in _md5s(index, run))
    outputs = run.outputs.model_outputs if run.outputs else []
    model = next(filter(None, known), None) or next((each.model_id for each in outputs), None)
    if model is None:
        raise RetraceError(
            f"{name} ({run.info.run_name}): MLflow has no model of it; {_todo(index)}"
        )
    return logged.complete(client, model)


def evaluations(
    index: RunIndex, model: LoggedModel, run: backend.Run, stage: str
) -> list[backend.Run]:
    """Return the finished runs of `stage` that evaluated a model, newest first.

    They are those that read its file; for a stage that does not, that of the experiment of `run`.
    """
    client = index.client
    deps = index.pipeline.stages[stage].deps
    conditions = [filters.equals(filters.tag("retrace.stage"), stage), cached_stages.FINISHED]
    md5 = model.tags.get(logged.MD5, "")
    read = [path for path in index.pipeline.models if path in deps]
    runs: list[backend.Run] = []
    for path in read if md5 else ():
        runs += run_tags.readers(client, [model.experiment_id], path, md5, conditions)
    if not read:
        own = index.stages(index.experiment(run) or run)
        runs = [each for each in own if each.data.tags["retrace.stage"] == stage]
        runs = [each for each in runs if each.info.status == "FINISHED"]
    return sorted(runs, key=lambda run: run.info.start_time, reverse=True)


def _md5s(index: RunIndex, run: backend.Run) -> Iterator[str]:
    """Yield the MD5s of the model's files that a stage's run, or an experiment, made or read."""
    makers = {index.pipeline.maker(path) for path in index.pipeline.models}
    for stage in index.stages(run):
        if stage is run or stage.data.tags["retrace.stage"] in makers:
            outs = cached_stages.hashes(stage, "outs")
            deps = cached_stages.hashes(stage, "deps")
            for path in index.pipeline.models:
                yield from filter(None, [outs.get(path) or deps.get(path)])


def _todo(index: RunIndex) -> str:
    """Return what a user can do if a run has no model."""
    maker = next(filter(None, map(index.pipeline.maker, index.pipeline.models)), None)
    if maker is None:
        return "dvc.yaml should name the model's file in `artifacts:`, with `type: model`"
    make = command("dvc", "repro", "--force", maker)
    return f"`retrace sync` uploads it if it was made here, `{make}` makes it"


def _registered(index: RunIndex, name: str) -> LoggedModel:
    """Return the model of this name in the registry. Raises RetraceError if there is none."""
    parts = NAMED.fullmatch(name)
    if parts is None:
        forms = "models:/name@alias or models:/name/version, such as models:/prices@champion"
        raise RetraceError(f"{name}: should be {forms}")
    version = registry.version(
        index.client, parts["name"], alias=parts["alias"], number=parts["version"]
    )
    if version is None:
        there = ", ".join(registry.addresses(index.client)) or "none yet"
        raise RetraceError(
            f"{name}: not in {index.address}, which has {there}; `retrace promote RUN` adds one"
        )
    model = registry.model_id(version)
    if model is None:
        raise RetraceError(
            f"{name} does not refer to a model of this pipeline; "
            "`retrace promote RUN` registers one"
        )
    return logged.complete(index.client, model)
