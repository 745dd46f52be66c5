"""DVC's experiments, and the workspace, as rows of MLflow, also where all came from DVC's cache and no stage ran."""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import Metric, Run

from retrace import git, graph, hashing, identity, machine, overrides, params, params_file, paths
from retrace.errors import DataError, ParamsError
from retrace.git import ExperimentRef
from retrace.metrics import parse_metrics
from retrace.tracking import links, runs, store, upload


@dataclass(frozen=True)
class Tree:
    """A folder in which dvc.lock says what the code and the parameters beside it made."""

    values: params_file.Values
    key: str
    locked: dict[str, graph.Locked]
    metrics: dict[str, float]  # as reports/metrics.json has them


def read(folder: Path) -> Tree | None:
    """None where dvc.lock is not of this code and these parameters, or lacks a stage."""
    try:
        values = params_file.read(folder / paths.PARAMS)
        locked = graph.locked(folder)
        if not _is_settled(values, locked, folder):
            return None
    except (ParamsError, DataError, KeyError, OSError):
        return None
    images = locked["download"].deps.get(str(paths.IMAGES))
    file = folder / paths.METRICS
    held = file.exists() and hashing.md5(file) == locked["evaluate"].outs.get(str(paths.METRICS))
    return Tree(values, identity.key(values, folder, images), locked, parse_metrics(file.read_bytes()) if held else {})


def add_missing(client: MlflowClient) -> int:
    """Each of DVC's experiments, and what is in the workspace, has its parent run, linked to the runs that made its
    bytes, and `dvc.exp_rev`; returns how many runs were added or completed.
    """
    refs = git.experiments()
    known = {run.data.tags["dvc.exp_rev"]: run for run in _parents(client) if "dvc.exp_rev" in run.data.tags}
    trees, named = {}, defaultdict[str, list[ExperimentRef]](list)
    for ref in refs:
        if ref.rev not in known:
            with git.export(ref.rev) as folder:
                if tree := read(folder):
                    trees[tree.key] = tree
                    named[tree.key].append(ref)
    if here := read(Path()):
        trees.setdefault(here.key, here)
    return sum(_added(client, tree, named[key], {ref.rev for ref in refs}) for key, tree in trees.items())


def _added(client: MlflowClient, tree: Tree, refs: list[ExperimentRef], revs: set[str]) -> bool:
    with store.lock():
        experiment = store.experiment_of(client, tree.values["dataset"])
        found = store.first(client, [experiment], {"retrace.key": tree.key})
        ref = _ref_of(found, refs)
        own = {stage: links.made_by(client, experiment, stage, entry.outs) for stage, entry in tree.locked.items()}
        if found and _is_whole(found, own) and (ref is None or found.data.tags.get("dvc.exp_rev") in revs):
            return False
        at = ref.time if ref else git.commit_time("HEAD")
        start = {
            "dataset": tree.values["dataset"],
            "key": tree.key,
            "folds": identity.key(tree.values | {"fold": None}) if tree.values["folds"] > 1 else None,
            "experiment": {"dvc.exp_name": ref.name, "dvc.baseline_rev": ref.baseline} if ref else {},
            "commit": ref.baseline if ref else git.head_commit(),
            "user": machine.user(),
            "time": at,
            "params": params.chosen(tree.values),
        }
        parent = found.info.run_id if found else runs.parent(client, experiment, start)
        upload.log_params(client, parent, start["params"])
        client.log_batch(
            parent,
            metrics=[] if own["evaluate"] else [Metric(name, value, at, 0) for name, value in tree.metrics.items()],
            tags=store.tagged({"dvc.exp_rev": ref.rev} | start["experiment"] if ref else {}),
        )
        links.show(client, parent, {stage: run for stage, run in own.items() if run})
        if found is None:
            client.set_terminated(parent, "FINISHED", at)
    return True


def _ref_of(parent: Run | None, refs: list[ExperimentRef]) -> ExperimentRef | None:
    """That of DVC's experiments here which the parent is to be named after. None where it has the name of one that is
    in another clone only: two that share a store would else take turns, for ever.
    """
    tags = parent.data.tags if parent else {}
    name, rev = tags.get("dvc.exp_name"), tags.get("dvc.exp_rev")
    ref = next((ref for ref in refs if ref.name == name), refs[0] if refs else None)
    is_another_s = not git.has_commit(rev) if rev else name is not None and ref is not None and ref.name != name
    return None if is_another_s else ref


def _is_whole(parent: Run, makers: Mapping[str, Run | None]) -> bool:
    """Whether the parent knows a run of each stage that MLflow knows a maker of."""
    tags = parent.data.tags.keys()
    return all(tags & {f"retrace.run.{stage}", f"retrace.cached.{stage}"} for stage, run in makers.items() if run)


def _parents(client: MlflowClient) -> Iterator[Run]:
    return store.every(client, store.experiments(client), "tags.`dvc.exp_rev` LIKE '%'")


def _is_settled(values: params_file.Values, locked: Mapping[str, graph.Locked], folder: Path) -> bool:
    """Whether dvc.lock has each stage with these parameters and the files here, outputs being later dependencies."""
    made: dict[str, str] = {}
    for name, stage in graph.stages(values, folder).items():
        entry = locked.get(name)
        if entry is None or set(entry.deps) != set(stage.deps) or set(entry.outs) != set(stage.outs):
            return False
        if overrides.flatten(entry.params) != params.chosen(values, params.STAGES[name]):
            return False
        for path, md5 in entry.deps.items():
            if made.get(path, _md5(folder / path) or md5) != md5:
                return False
        made |= entry.outs
    return True


def _md5(path: Path) -> str | None:
    return hashing.md5(path) if path.exists() else None
