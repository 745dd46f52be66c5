"""Register a run's model in MLflow's registry, unless the model that has the alias is better."""

import re
from dataclasses import dataclass
from pathlib import Path

from retrace import settings
from retrace.errors import RetraceError
from retrace.pipeline import evaluation, metrics
from retrace.pipeline.workspace import Workspace
from retrace.provenance import models
from retrace.provenance.run_index import RunIndex
from retrace.store import backend, cached_stages, lifecycle, names, registry
from retrace.store import models as logged
from retrace.store.models import LoggedModel
from retrace.system import files
from retrace.system.text import command

ALIAS = re.compile(r"(?!latest$)(?!v[0-9]+$)[A-Za-z][A-Za-z0-9_-]{0,99}", re.IGNORECASE)
MODEL = "retrace.model"  # tag of a version whose model's file is not in dvc.yaml: the model's id


@dataclass(frozen=True)
class Criterion:
    """By what models are compared: a metric, the stage that makes it, the data that it reads."""

    metric: str
    is_minimized: bool
    stage: str
    data: tuple[str, ...]

    def value(self, run: backend.Run) -> float | None:
        """Return the metric of a run of the stage."""
        own = self.metric.removeprefix(f"{self.stage}/")
        values = cached_stages.summary(run) | run.data.metrics
        keys = (names.encode(self.metric), self.metric, names.encode(own), own)
        return next((values[key] for key in keys if key in values), None)


@backend.mlflow_errors()
def promote(run_id: str, alias: str, *, force: bool, metric: str | None = None) -> None:
    """Register the model of the run whose id begins with `run_id`, and set `alias` to it.

    Its name in the registry is the setting `models.name`, by default that of the MLflow experiment;
    its tags record its origin. Running it again changes nothing. Raises RetraceError if the run has
    not finished, has no model, or its model was not evaluated; and, without `force`, if the model
    that has the alias is better by `metric` on the same data, or was evaluated on other data.
    """
    if not ALIAS.fullmatch(alias):
        wanted = "a word such as champion, but not latest, v1 or another version"
        raise RetraceError(f"--as is {alias!r}; should be {wanted}")
    configured = settings.load(files.root())
    criterion = _criterion(configured, metric)
    index = RunIndex()
    run = _finished(index, run_id)
    model = models.model_of_run(index, run)
    name = configured.models.name or _experiment_name(index, run)
    with backend.lock():
        present = registry.version(index.client, name, alias=alias)
        evaluated = _evaluated(index, model, run, criterion, present.tags if present else {})
        tags = _tags(index, model, run, evaluated, criterion)
        if fault := _fault(f"{name}@{alias}", present, tags, criterion):
            if not force:
                raise RetraceError(
                    f"run {run.info.run_id[:8]}: {fault}; --force promotes it anyway"
                )
            print(f"forced: {fault}")
        known = (one for one in registry.versions(index.client, name) if _is_same(one, tags))
        version = next(known, None) or registry.add(index.client, name, model, tags)
        address = f"models:/{name}@{alias}"
        result = f"{address} is version {version.version}, of run {version.tags['retrace.run'][:8]}"
        result += f", {criterion.metric} {float(tags[criterion.metric]):.6g}"
        if present and present.version == version.version:
            print(f"{result}; it already was; nothing changed")
            return
        index.client.set_registered_model_alias(name, alias, str(version.version))
    before = f"before, it was version {present.version}" if present else "the alias is new"
    print(f"{result}; {before}")
    _print_serving(index, model, address)


def _print_serving(index: RunIndex, model: LoggedModel, address: str) -> None:
    """Print the command that serves a model, if MLflow can serve it."""
    files_of_model = index.client.list_logged_model_artifacts(model.model_id)
    if any(file.path == "MLmodel" for file in files_of_model):
        serve = f"mlflow models serve -m {command(address)}"
        print(f"serve it: {serve} --env-manager local --port 5001")


def _experiment_name(index: RunIndex, run: backend.Run) -> str:
    """Return the name of the MLflow experiment, also after a user has renamed it."""
    experiment = index.client.get_experiment(run.info.experiment_id)
    return experiment.tags.get(backend.NAMED) or experiment.name


def _criterion(configured: settings.Settings, metric: str | None) -> Criterion:
    """Return by what models are compared. Raises RetraceError without a metric or its stage."""
    metric = metric or configured.metrics.primary
    if not metric:
        advice = "name the metric by which models are compared, or set metrics.primary"
        raise RetraceError(f"--metric is missing; {advice} in [tool.retrace]")
    metric = names.decode(metric)
    workspace = Workspace(Path())
    stages = evaluation.stages_of(workspace, metric) or workspace.pipeline.training
    if not stages:
        raise RetraceError("dvc.yaml: no stage makes metrics; list a file in a stage's `metrics:`")
    data = evaluation.data_of(workspace, stages[-1])
    is_minimized = metrics.is_minimized(metric, configured.metrics.minimize)
    return Criterion(metric, is_minimized, stages[-1], tuple(data))


def _finished(index: RunIndex, run_id: str) -> backend.Run:
    """Find the run. Raises RetraceError if there is none, or if it has not finished."""
    run = index.required(run_id)
    if run.info.status != "FINISHED":
        subject = f"run {run.info.run_id[:8]} ({run.info.run_name})"
        advice = "only runs with status FINISHED can be promoted"
        raise RetraceError(f"{subject}: is {run.info.status}; {advice}")
    return run


def _evaluated(
    index: RunIndex,
    model: LoggedModel,
    run: backend.Run,
    criterion: Criterion,
    present: dict[str, str],
) -> backend.Run:
    """Return the run that evaluated the model.

    Prefer one on the data of the `present` version, then the experiment's own, then the newest.
    """
    runs = models.evaluations(index, model, run, criterion.stage)
    evaluations = [each for each in runs if criterion.value(each) is not None]
    subject = f"run {run.info.run_id[:8]} ({run.info.run_name})"
    if not runs:
        advice = f"`{command('dvc', 'repro', criterion.stage)}` tests it"
        if index.has_lost(index.experiment(run) or run, criterion.stage):
            advice = (
                f"the run of {criterion.stage} was deleted in MLflow: `retrace sync` restores it"
            )
        raise RetraceError(f"{subject}: its model was not tested; {advice}")
    if not evaluations:
        known = sorted({name for each in runs for name in cached_stages.summary(each)})
        advice = f"should be one of {', '.join(known) or 'none'}"
        raise RetraceError(
            f"{subject}: {criterion.stage} has no metric {criterion.metric!r}; {advice}"
        )
    own = (index.experiment(run) or run).info.run_id

    def priority(run: backend.Run) -> tuple[bool, bool]:
        tested = _tested(index, run, criterion)
        is_same = all(present.get(tag) == md5 for tag, md5 in tested.items())
        return is_same, run.data.tags.get("mlflow.parentRunId") == own

    return max(evaluations, key=priority)


def _tested(index: RunIndex, evaluated: backend.Run, criterion: Criterion) -> dict[str, str]:
    """Return the data that a run evaluated on: its MD5s, as tags."""
    deps = cached_stages.hashes(evaluated, "deps")
    if not deps.keys() >= {*criterion.data}:  # an earlier stage has read it
        stages = index.stages(index.experiment(evaluated) or evaluated)
        hashes = (cached_stages.hashes(stage, "deps") for stage in stages)
        deps = {path: md5 for own in hashes for path, md5 in own.items()} | deps
    return {f"dvc.deps.{path}": deps[path] for path in criterion.data if path in deps}


def _tags(
    index: RunIndex,
    model: LoggedModel,
    run: backend.Run,
    evaluated: backend.Run,
    criterion: Criterion,
) -> dict[str, str]:
    """Return tags with the version's origin."""
    trained = _trained(index, model)
    parent = index.experiment(run) or run
    pipeline = index.pipeline
    deps = cached_stages.hashes(trained, "deps")
    tags = {f"dvc.deps.{path}": md5 for path, md5 in deps.items() if pipeline.is_data(path)}
    outs = cached_stages.hashes(trained, "outs")
    weights = {f"dvc.outs.{path}": outs[path] for path in pipeline.models if path in outs}
    tags |= weights or {MODEL: model.model_id}
    tags |= _tested(index, evaluated, criterion)
    tags |= {criterion.metric: repr(criterion.value(evaluated))}
    tags |= {"retrace.run": parent.info.run_id}
    for each in (trained, evaluated):
        if stage := each.data.tags.get("retrace.stage"):
            tags[f"retrace.run.{stage}"] = each.info.run_id
    for tag in ("retrace.key", "dvc.exp_name", "mlflow.source.git.commit"):
        tags |= {tag: parent.data.tags[tag]} if tag in parent.data.tags else {}
    return tags


def _trained(index: RunIndex, model: LoggedModel) -> backend.Run:
    """Return the run that made the model; if it is gone, another one that made the same bytes."""
    trained = lifecycle.find(index.client, model.source_run_id or "")
    trained = trained or next(iter(index.makers(model.tags.get(logged.MD5, ""))), None)
    if trained is None:
        advice = "`retrace sync` adds it again if DVC still has it"
        raise RetraceError(
            f"model {model.model_id}: run {model.source_run_id}, which made it, is missing in "
            f"MLflow; {advice}"
        )
    return trained


def _fault(
    address: str,
    present: registry.ModelVersion | None,
    tags: dict[str, str],
    criterion: Criterion,
) -> str | None:
    """Return why the present version should keep the alias; None if it should not."""
    if present is None or _is_same(present, tags):
        return None
    metric = criterion.metric
    current = f"{address} (version {present.version})"
    if metric not in present.tags:
        return f"{current} has no {metric}, because it was not promoted by retrace and this metric"
    for path in criterion.data:
        other, own = (each.get(f"dvc.deps.{path}", "none") for each in (present.tags, tags))
        if other != own:
            return f"{current} was tested on other data ({path}: {other[:8]}, not {own[:8]})"
    value = float(tags[metric])
    best = float(present.tags[metric])
    if value > best if criterion.is_minimized else value < best:
        better = f"that of {current} on the same data {best:.6g}"
        return f"its {metric} is {value:.6g}, {better}"
    return None


def _is_same(version: registry.ModelVersion, tags: dict[str, str]) -> bool:
    """Return whether the version has these weights, evaluated on this data."""
    hashed = [tag for tag in tags if tag.startswith(("dvc.", MODEL)) and tag != "dvc.exp_name"]
    return all(version.tags.get(tag) == tags[tag] for tag in hashed)
