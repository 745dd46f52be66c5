"""A trial's result, from its DVC experiment, whether it ran or came from DVC's cache."""

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from retrace.errors import DataError
from retrace.pipeline import dvc_internals, git, hashing, lockfile, snapshot
from retrace.pipeline.definition import prefixes
from retrace.pipeline.snapshot import Snapshot
from retrace.pipeline.workspace import Workspace
from retrace.store import backend, experiments, sweep_runs
from retrace.sweeps.objective import Objective
from retrace.system import machine
from retrace.tracking import curves
from retrace.tracking import results as stage_results
from retrace.tracking.growing_table import SEPARATED

TABLES = (*SEPARATED, ".jsonl", ".ndjson")


@dataclass(frozen=True)
class Result:
    """An experiment's commit, the metric, its values by step, and the state of the stages."""

    commit: str
    value: float
    curve: dict[int, float]
    state: Snapshot


def read_result(commit: str, objective: Objective) -> Result:
    """Return the result of the experiment with this commit.

    The metric is that of the metrics files, else the last value of its curve. Raises DataError if
    the experiment does not have it.
    """
    with snapshot.export(commit) as folder:
        workspace = Workspace(folder)
        pipeline = workspace.pipeline
        names = (
            pipeline.ancestors(*objective.targets) if objective.targets else list(pipeline.stages)
        )
        _add_outputs(workspace, names, commit, dvc_internals.objects().absolute())
        state = snapshot.read(folder, names)
        curve = _curve(workspace, names, objective.metric)
    if state is None:
        raise DataError(f"commit {commit[:10]}: dvc.lock is not that of its code and parameters")
    values = dict(state.metrics)
    if objective.metric not in values and not curve:
        problem = f"has no metric {objective.metric}, only {', '.join(values) or 'none'}"
        raise DataError(f"commit {commit[:10]}: {problem}")
    value = values.get(objective.metric, curve[max(curve)] if curve else math.nan)
    if math.isnan(value):
        raise DataError(f"commit {commit[:10]}: {objective.metric} is not a number")
    return Result(commit, value, curve, state)


def add_to_sweep(sweep: str, result: Result, at: int) -> None:
    """Make the trial's run a child of the sweep's run in MLflow.

    Create it if no stage of the trial ran.
    """
    client = backend.client()
    state = result.state
    tags = {"retrace.key": state.key}
    with backend.lock():
        experiment = backend.experiment_of(client, state.place["mlflow_experiment"])
        known = backend.first(client, [experiment], tags)
    if known is None:
        experiments.add(client, state, result.commit)
    with backend.lock():
        if run := known or backend.first(client, [experiment], {"dvc.exp_rev": result.commit}):
            sweep_runs.adopt(client, experiment, run.info.run_id, sweep, machine.user(), at)


def _curve(workspace: Workspace, names: list[str], metric: str) -> dict[int, float]:
    """Return the metric by step, of the first stage that has it; empty if no table has it."""
    for name in names:
        stage = workspace.pipeline.stages[name]
        files = stage_results.files(workspace, stage)
        for own, curve in curves.read_all(workspace.root / file for file in files).items():
            if f"{stage.metrics_prefix}{own}" == metric:
                return curve
    return {}


def _add_outputs(workspace: Workspace, names: list[str], commit: str, objects: Path) -> None:
    """Add the metrics files and tables of these stages, from git or DVC's cache."""
    pipeline = workspace.pipeline
    outs = [out for name in names for out in pipeline.stages[name].outs]
    named = {out.path for out in outs if out.kind != "out"} | {*pipeline.metrics, *pipeline.plots}
    in_git = named | {out.path for out in outs if not out.is_cached}
    here = [path for path in in_git if "://" not in path and not path.startswith(("/", "../"))]
    git.export_into(workspace.root, commit, *here)
    hashes = {name: lockfile.md5s(each.outs) for name, each in workspace.locked.items()}
    for name in names:
        for out, md5 in hashes.get(name, {}).items():
            for path, own in _files(out, md5, objects):
                source = hashing.object_path(objects, own)
                target = workspace.root / path
                is_wanted = not named.isdisjoint(prefixes(path)) or target.suffix.lower() in TABLES
                if is_wanted and not target.exists() and _is_intact(source, own):
                    target.parent.mkdir(parents=True, exist_ok=True)
                    target.symlink_to(source.absolute())


def _files(out: str, md5: str, objects: Path) -> Iterator[tuple[str, str]]:
    """Yield the path and the hash of an output, or of the files in it."""
    listing = hashing.object_path(objects, md5)
    if not md5.endswith(".dir"):
        yield out, md5
    elif _is_intact(listing, md5):
        for entry in json.loads(listing.read_bytes()):
            yield f"{out}/{entry['relpath']}", entry["md5"]


def _is_intact(path: Path, md5: str) -> bool:
    return path.is_file() and hashing.md5(path) == md5.removesuffix(".dir")
