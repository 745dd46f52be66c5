"""Add DVC's experiments and the workspace to MLflow as runs, even if no stage ran for them."""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import Run

from retrace.event_log import Event
from retrace.pipeline import git, lockfile, snapshot
from retrace.pipeline.git import ExperimentRef
from retrace.pipeline.snapshot import Snapshot
from retrace.store import backend, cached_stages, entries, filters, run_tags, runs
from retrace.system import machine


def add_missing(client: MlflowClient) -> int:
    """Add a parent run for each DVC experiment and the workspace; return how many changed.

    Each gets `dvc.exp_rev` and links to the runs that made its files.
    """
    refs = git.experiments()
    known = {
        run.data.tags["dvc.exp_rev"]: run
        for run in _parents(client)
        if "dvc.exp_rev" in run.data.tags
    }
    states: dict[str, Snapshot] = {}
    named = defaultdict[str, list[ExperimentRef]](list)
    for ref in refs:
        if ref.rev not in known:
            state = snapshot.of_commit(ref.rev)
            if state:
                states[state.key] = state
                named[state.key].append(ref)
    here = snapshot.read(Path())
    if here:
        states.setdefault(here.key, here)
    return sum(
        _add(client, state, named[key], {ref.rev for ref in refs}) for key, state in states.items()
    )


def _add(client: MlflowClient, state: Snapshot, refs: list[ExperimentRef], revs: set[str]) -> bool:
    """Add or complete the parent run of a state; return False if it already was complete."""
    with backend.lock():
        experiment = backend.experiment_of(client, state.place["mlflow_experiment"])
        run = backend.first(client, [experiment], {"retrace.key": state.key})
        ref = _ref(run, refs)
        makers = {
            stage: cached_stages.maker(
                client, experiment, stage, lockfile.md5s(entry.outs).values()
            )
            for stage, entry in state.locked.items()
        }
        is_named = ref is None or (run and run.data.tags.get("dvc.exp_rev") in revs)
        if run and is_named and _is_complete(run, makers):
            return False
        start = _start(state, ref)
        at = start["time"]
        parent = run.info.run_id if run else runs.parent(client, experiment, start)
        entries.log_params(client, parent, start["params"])
        is_measured = all(makers[stage] for stage in state.metrics_stages)
        metrics = {} if is_measured else state.metrics
        entries.log_metrics(client, parent, entries.points(metrics, at), metrics)
        named = {"dvc.exp_rev": ref.rev} | start["experiment"] if ref else {}
        entries.log_tags(client, parent, named)
        cached_stages.link(
            client, parent, {stage: maker for stage, maker in makers.items() if maker}
        )
        if run is None:
            client.set_terminated(parent, "FINISHED", at)
    return True


def _start(state: Snapshot, ref: ExperimentRef | None) -> Event:
    """Return an event like the first of a stage's event log, for the parent run of a state."""
    names = {"dvc.exp_name": ref.name, "dvc.baseline_rev": ref.baseline} if ref else {}
    return {
        **state.place,
        "key": state.key,
        "experiment": names,
        "commit": ref.baseline if ref else git.head_commit(),
        "user": machine.user(),
        "time": ref.time if ref else git.commit_time("HEAD"),
        "params": state.params,
    }


def _ref(parent: Run | None, refs: list[ExperimentRef]) -> ExperimentRef | None:
    """Return the DVC experiment to name the parent after.

    None if the parent is already named after an experiment of another clone; otherwise two clones
    that share a store would keep renaming it.
    """
    tags = parent.data.tags if parent else {}
    name = tags.get("dvc.exp_name")
    rev = tags.get("dvc.exp_rev")
    ref = next((ref for ref in refs if ref.name == name), refs[0] if refs else None)
    if rev:
        return ref if git.has_commit(rev) else None
    return ref if name is None or ref is None or ref.name == name else None


def _is_complete(parent: Run, makers: Mapping[str, Run | None]) -> bool:
    """Return whether the parent is linked to a run for each stage whose outputs MLflow knows."""
    tags = parent.data.tags
    return all(run_tags.linked_run(tags, stage) for stage, run in makers.items() if run)


def _parents(client: MlflowClient) -> Iterator[Run]:
    return backend.search_runs(client, backend.experiments(client), filters.exists("dvc.exp_rev"))
