"""Find models by a run's id or by a name in MLflow's registry, and find their evaluations."""

import re

from retrace import settings
from retrace.errors import RetraceError
from retrace.provenance.run_index import RunIndex
from retrace.store import backend, cached_stages, groups, registry, run_tags
from retrace.store import models as logged
from retrace.store.models import LoggedModel

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
        wanted = f"no model file here, and no run in {index.address}"
        forms = (
            "give models/model.safetensors, at least 6 digits of a run's id, or models:/name@alias"
        )
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
    md5 = next(filter(None, map(_weights, _train_runs(index, run))), None)
    model = logged.by_weights(index.client, run.info.experiment_id, md5) if md5 else None
    if model is None:
        todo = (
            "`retrace sync` uploads it if it was trained here, `dvc repro --force train` trains it"
        )
        raise RetraceError(f"{name} ({run.info.run_name}): MLflow has no model of it; {todo}")
    return logged.complete(index.client, model)


def evaluations(client: backend.MlflowClient, model: LoggedModel) -> list[backend.Run]:
    """Return the finished runs of `evaluate` that read these weights, newest first."""
    conditions = ("tags.`retrace.stage` = 'evaluate'", cached_stages.FINISHED)
    weights = (str(settings.WEIGHTS), model.tags[logged.MD5])
    return run_tags.readers(client, [model.experiment_id], *weights, conditions)[::-1]


def _train_runs(index: RunIndex, run: backend.Run) -> list[backend.Run]:
    return [
        one for one in index.stages(run) if one is run or one.data.tags["retrace.stage"] == "train"
    ]


def _weights(run: backend.Run) -> str | None:
    """Return the MD5 of the weights that a run made, or else read."""
    path = str(settings.WEIGHTS)
    outs = cached_stages.hashes(run, "outs")
    return outs.get(path) or cached_stages.hashes(run, "deps").get(path)


def _registered(index: RunIndex, name: str) -> LoggedModel:
    """Return the model of this name in the registry. Raises RetraceError if there is none."""
    parts = NAMED.fullmatch(name)
    if parts is None:
        forms = "models:/name@alias or models:/name/version, such as models:/mnist@champion"
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
