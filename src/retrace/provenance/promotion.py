"""Register a run's model in MLflow's registry, unless the model that has the alias is better."""

import re

from retrace import settings
from retrace.errors import RetraceError
from retrace.provenance import models
from retrace.provenance.run_index import RunIndex
from retrace.store import backend, cached_stages, registry
from retrace.store.models import LoggedModel

WEIGHTS = f"dvc.outs.{settings.WEIGHTS}"  # tags of a version
TESTED = f"dvc.deps.{settings.TEST}"
ACCURACY = "test_accuracy"
ALIAS = re.compile(r"(?!latest$)(?!v[0-9]+$)[A-Za-z][A-Za-z0-9_-]{0,99}", re.IGNORECASE)
READ = (settings.TRAIN, settings.VALIDATION)


@backend.mlflow_errors()
def promote(run_id: str, alias: str, *, force: bool) -> None:
    """Register the model of the run whose id begins with `run_id`, and set `alias` to it.

    Its name in the registry is that of the data set; its tags record its origin. Running it again
    changes nothing. Raises RetraceError if the run has not finished, has no model, or its model was
    not evaluated; and, without `force`, if the model that has the alias is better on the same test
    split, or was tested on another one.
    """
    if not ALIAS.fullmatch(alias):
        wanted = "a word such as champion, but not latest, v1 or another version"
        raise RetraceError(f"--as is {alias!r}; should be {wanted}")
    index = RunIndex()
    run = _finished(index, run_id)
    model = models.model_of_run(index, run)
    name = index.client.get_experiment(run.info.experiment_id).name
    with backend.lock():
        present = registry.version(index.client, name, alias=alias)
        evaluated = _evaluated(index, model, run, present.tags if present else {})
        tags = _tags(index, model, run, evaluated)
        if fault := _fault(f"{name}@{alias}", present, tags):
            if not force:
                raise RetraceError(
                    f"run {run.info.run_id[:8]}: {fault}; --force promotes it anyway"
                )
            print(f"forced: {fault}")
        known = (one for one in registry.versions(index.client, name) if _is_same(one, tags))
        version = next(known, None) or registry.add(index.client, name, model, tags)
        result = f"models:/{name}@{alias} is version {version.version}"
        result += f", of run {version.tags['retrace.run'][:8]}"
        result += f", test accuracy {float(tags[ACCURACY]):.2%}"
        if present and present.version == version.version:
            print(f"{result}; it already was; nothing changed")
            return
        index.client.set_registered_model_alias(name, alias, str(version.version))
    before = f"before, it was version {present.version}" if present else "the alias is new"
    print(f"{result}; {before}")
    print(
        f"serve it: mlflow models serve -m models:/{name}@{alias} --env-manager local --port 5001"
    )


def _finished(index: RunIndex, run_id: str) -> backend.Run:
    """Find the run. Raises RetraceError if there is none, or if it has not finished."""
    run = index.run(run_id)
    if run is None:
        advice = "give at least 6 digits of its id, which `mlflow ui` shows"
        raise RetraceError(f"run {run_id!r} was not found in {index.address}; {advice}")
    if run.info.status != "FINISHED":
        subject = f"run {run.info.run_id[:8]} ({run.info.run_name})"
        advice = "only runs with status FINISHED can be promoted"
        raise RetraceError(f"{subject}: is {run.info.status}; {advice}")
    return run


def _evaluated(
    index: RunIndex, model: LoggedModel, run: backend.Run, present: dict[str, str]
) -> backend.Run:
    """Return the run that tested the model.

    Prefer one with the test split of the `present` version, then the experiment's own, then the
    newest.
    """
    evaluations = models.evaluations(index.client, model)
    if not evaluations:
        subject = f"run {run.info.run_id[:8]} ({run.info.run_name})"
        raise RetraceError(f"{subject}: its model was not tested; `dvc repro evaluate` tests it")
    own = (index.experiment(run) or run).info.run_id

    def priority(run: backend.Run) -> tuple[bool, bool]:
        tags = run.data.tags
        is_same = _read(run, settings.TEST) == present.get(TESTED)
        return is_same, tags["mlflow.parentRunId"] == own

    return max(evaluations, key=priority)


def _tags(
    index: RunIndex, model: LoggedModel, run: backend.Run, evaluated: backend.Run
) -> dict[str, str]:
    """Return tags with the version's origin."""
    trained = index.client.get_run(str(model.source_run_id))
    parent = index.experiment(run) or run
    tags = {f"dvc.deps.{part}": _read(trained, part) for part in READ}
    tags |= {WEIGHTS: cached_stages.hashes(trained, "outs")[str(settings.WEIGHTS)]}
    tags |= {TESTED: _read(evaluated, settings.TEST)}
    tags |= {ACCURACY: repr(evaluated.data.metrics[ACCURACY])}
    tags |= {"retrace.run": parent.info.run_id, "retrace.run.train": trained.info.run_id}
    tags |= {"retrace.run.evaluate": evaluated.info.run_id}
    for tag in ("retrace.key", "dvc.exp_name", "mlflow.source.git.commit"):
        tags |= {tag: parent.data.tags[tag]} if tag in parent.data.tags else {}
    return {name: value for name, value in tags.items() if value}


def _read(run: backend.Run, path: object) -> str:
    """Return the hash of a file that a run read; nothing if it did not."""
    return cached_stages.hashes(run, "deps").get(str(path), "")


def _fault(address: str, present: registry.ModelVersion | None, tags: dict[str, str]) -> str | None:
    """Return why the present version should keep the alias; None if it should not."""
    if present is None or _is_same(present, tags):
        return None
    current = f"{address} (version {present.version})"
    if ACCURACY not in present.tags or TESTED not in present.tags:
        return f"{current} has no test accuracy, because it was not promoted by retrace"
    if present.tags[TESTED] != tags[TESTED]:
        other, own = present.tags[TESTED][:8], tags[TESTED][:8]
        return f"{current} was tested on other data ({other}, not {own})"
    accuracy = float(tags[ACCURACY])
    best = float(present.tags[ACCURACY])
    if accuracy < best:
        better = f"that of {current} on the same test split {best:.2%}"
        return f"its test accuracy is {accuracy:.2%}, {better}"
    return None


def _is_same(version: registry.ModelVersion, tags: dict[str, str]) -> bool:
    """Return whether the version has these weights, tested on this test split."""
    return all(version.tags.get(tag) == tags[tag] for tag in (WEIGHTS, TESTED))
