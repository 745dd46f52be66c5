"""Which model is meant by a run's id, or by a name in MLflow's registry; and how good it was found to be."""

import re

from retrace import paths
from retrace.errors import RetraceError
from retrace.provenance.origins import Origins
from retrace.tracking import folds, links, registry, store
from retrace.tracking import models as logged
from retrace.tracking.models import LoggedModel

SCHEME = "models:/"
NAMED = re.compile(rf"{SCHEME}(?P<name>[^/@]+)(?:@(?P<alias>[^/@]+)|/(?P<version>[0-9]+))")
EVALUATED = f"dvc.deps.{paths.WEIGHTS}"  # a run's tag with the weights that it read
TESTED = f"dvc.deps.{paths.TEST}"  # and with the test part


def find(said: str) -> LoggedModel:
    """The model that `said` names, models:/name@alias, models:/name/version, or a run. Raises RetraceError where there
    is none.
    """
    origins = Origins()
    if said.startswith(SCHEME):
        return _registered(origins, said)
    run = origins.run(said)
    if run is None:
        wanted = f"no model file here, and no run in {origins.place}"
        forms = "give models/model.safetensors, at least 6 digits of a run's id, or models:/name@alias"
        raise RetraceError(f"{said}: {wanted}; {forms}")
    return of_run(origins, run)


def of_run(origins: Origins, run: store.Run) -> LoggedModel:
    """The model that an experiment has, or that a stage's run made or read. Raises RetraceError where there is none."""
    name = f"run {run.info.run_id[:8]}"
    if folds.SUMMARY in run.data.tags:
        raise RetraceError(f"{name}: sums up folds; name one of the runs below it, one a fold")
    md5 = next(filter(None, map(_weights, _of_train(origins, run))), None)
    model = logged.by_weights(origins.client, run.info.experiment_id, md5) if md5 else None
    if model is None:
        todo = "`retrace sync` uploads what was trained here, `dvc repro --force train` trains it"
        raise RetraceError(f"{name} ({run.info.run_name}): MLflow has no model of it; {todo}")
    return logged.complete(origins.client, model)


def evaluations(client: store.MlflowClient, model: LoggedModel) -> list[store.Run]:
    """The finished runs of `evaluate` that read these weights, newest first."""
    asked = f"tags.`{EVALUATED}` = '{model.tags[logged.MD5]}' and tags.`retrace.stage` = 'evaluate'"
    runs = store.every(client, [model.experiment_id], f"{asked} and {links.FINISHED}")
    return sorted(runs, key=lambda run: run.info.start_time, reverse=True)


def _of_train(origins: Origins, run: store.Run) -> list[store.Run]:
    return [one for one in origins.stages(run) if one is run or one.data.tags["retrace.stage"] == "train"]


def _weights(run: store.Run) -> str | None:
    return links.hashes(run, "outs").get(str(paths.WEIGHTS)) or links.hashes(run, "deps").get(str(paths.WEIGHTS))


def _registered(origins: Origins, said: str) -> LoggedModel:
    parts = NAMED.fullmatch(said)
    if parts is None:
        raise RetraceError(
            f"{said}: should be models:/name@alias or models:/name/version, such as models:/mnist@champion"
        )
    version = registry.version(origins.client, parts["name"], alias=parts["alias"], number=parts["version"])
    if version is None:
        there = ", ".join(registry.addresses(origins.client)) or "none yet"
        raise RetraceError(f"{said}: not in {origins.place}, which has {there}; `retrace promote RUN` adds one")
    model = registry.model_id(version)
    if model is None:
        raise RetraceError(f"{said}: no model of this pipeline is behind it; `retrace promote RUN` registers one")
    return logged.complete(origins.client, model)
