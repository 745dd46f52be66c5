"""DVC's experiments and the workspace as runs in MLflow, even if no stage ran for them."""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import Metric, Run

from retrace import settings
from retrace.errors import DataError, ParamsError
from retrace.event_log import Event
from retrace.pipeline import git, graph, hashing, identity, overrides, params_file
from retrace.pipeline.git import ExperimentRef
from retrace.pipeline.metrics import parse_metrics
from retrace.store import backend, cached_stages, runs, upload
from retrace.system import machine


@dataclass(frozen=True)
class Tree:
    """A folder whose dvc.lock is up to date with its code and parameters."""

    values: params_file.Values
    params: overrides.Flat  # those that a stage reads
    key: str
    locked: dict[str, graph.Locked]
    metrics: dict[str, float]  # of reports/metrics.json


def read(folder: Path) -> Tree | None:
    """Read a folder; None if dvc.lock is of other code or parameters, or lacks a stage."""
    try:
        values = params_file.read(folder / settings.PARAMS)
        locked = graph.locked(folder)
        stages = graph.stages(values, folder)
        if not _is_up_to_date(values, stages, locked, folder):
            return None
    except (ParamsError, DataError, KeyError, OSError):
        return None
    images = locked["download"].deps.get(str(settings.IMAGES))
    file = folder / settings.METRICS
    is_locked = file.exists() and hashing.md5(file) == locked["evaluate"].outs.get(
        str(settings.METRICS)
    )
    metrics = parse_metrics(file.read_bytes()) if is_locked else {}
    used = graph.used_params(values, stages)
    return Tree(values, used, identity.key(values, folder, images), locked, metrics)


def add_missing(client: MlflowClient) -> int:
    """Add a parent run for each DVC experiment and the workspace; return how many were changed.

    Each gets `dvc.exp_rev` and links to the runs that made its files.
    """
    refs = git.experiments()
    known = {
        run.data.tags["dvc.exp_rev"]: run
        for run in _parents(client)
        if "dvc.exp_rev" in run.data.tags
    }
    trees: dict[str, Tree] = {}
    named = defaultdict[str, list[ExperimentRef]](list)
    for ref in refs:
        if ref.rev not in known:
            with git.export(ref.rev) as folder:
                tree = read(folder)
                if tree:
                    trees[tree.key] = tree
                    named[tree.key].append(ref)
    here = read(Path())
    if here:
        trees.setdefault(here.key, here)
    return sum(
        _add(client, tree, named[key], {ref.rev for ref in refs}) for key, tree in trees.items()
    )


def _add(client: MlflowClient, tree: Tree, refs: list[ExperimentRef], revs: set[str]) -> bool:
    """Add or complete the parent run of a tree; return False if it was complete."""
    with backend.lock():
        experiment = backend.experiment_of(client, tree.values["dataset"])
        run = backend.first(client, [experiment], {"retrace.key": tree.key})
        ref = _ref(run, refs)
        makers = {
            stage: cached_stages.maker(client, experiment, stage, entry.outs)
            for stage, entry in tree.locked.items()
        }
        is_named = ref is None or (run and run.data.tags.get("dvc.exp_rev") in revs)
        if run and is_named and _is_complete(run, makers):
            return False
        start = _start(tree, ref)
        at = start["time"]
        parent = run.info.run_id if run else runs.parent(client, experiment, start)
        upload.log_params(client, parent, start["params"])
        metrics = {} if makers["evaluate"] else tree.metrics
        client.log_batch(
            parent,
            metrics=[Metric(name, value, at, 0) for name, value in metrics.items()],
            tags=backend.tagged({"dvc.exp_rev": ref.rev} | start["experiment"] if ref else {}),
        )
        cached_stages.link(
            client, parent, {stage: maker for stage, maker in makers.items() if maker}
        )
        if run is None:
            client.set_terminated(parent, "FINISHED", at)
    return True


def _start(tree: Tree, ref: ExperimentRef | None) -> Event:
    """Return what a stage's event log would begin with, for the parent run of a tree."""
    names = {"dvc.exp_name": ref.name, "dvc.baseline_rev": ref.baseline} if ref else {}
    folds = identity.key(tree.values | {"fold": None}) if tree.values["folds"] > 1 else None
    return {
        "dataset": tree.values["dataset"],
        "key": tree.key,
        "folds": folds,
        "experiment": names,
        "commit": ref.baseline if ref else git.head_commit(),
        "user": machine.user(),
        "time": ref.time if ref else git.commit_time("HEAD"),
        "params": tree.params,
    }


def _ref(parent: Run | None, refs: list[ExperimentRef]) -> ExperimentRef | None:
    """Return the DVC experiment to name the parent after.

    None if it has the name of one that only another clone has: two clones that share a store would
    rename it in turns, forever.
    """
    tags = parent.data.tags if parent else {}
    name = tags.get("dvc.exp_name")
    rev = tags.get("dvc.exp_rev")
    ref = next((ref for ref in refs if ref.name == name), refs[0] if refs else None)
    if rev:
        return ref if git.has_commit(rev) else None
    return ref if name is None or ref is None or ref.name == name else None


def _is_complete(parent: Run, makers: Mapping[str, Run | None]) -> bool:
    """Return whether the parent has a run of each stage that MLflow has a maker of."""
    tags = parent.data.tags.keys()
    return all(
        tags & {f"retrace.run.{stage}", f"retrace.cached.{stage}"}
        for stage, run in makers.items()
        if run
    )


def _parents(client: MlflowClient) -> Iterator[Run]:
    return backend.every(client, backend.experiments(client), "tags.`dvc.exp_rev` LIKE '%'")


def _is_up_to_date(
    values: params_file.Values,
    stages: Mapping[str, graph.Stage],
    locked: Mapping[str, graph.Locked],
    folder: Path,
) -> bool:
    """Return whether dvc.lock has each stage with these parameters and files."""
    outs: dict[str, str] = {}
    for name, stage in stages.items():
        entry = locked.get(name)
        if (
            entry is None
            or set(entry.deps) != set(stage.deps)
            or set(entry.outs) != set(stage.outs)
        ):
            return False
        if overrides.flatten(entry.params) != overrides.select(values, stage.params):
            return False
        for path, md5 in entry.deps.items():
            if outs.get(path, _md5(folder / path) or md5) != md5:
                return False
        outs |= entry.outs  # dependencies of later stages
    return True


def _md5(path: Path) -> str | None:
    return hashing.md5(path) if path.exists() else None
