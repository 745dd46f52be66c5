"""Find the runs of experiments and of the stages that dvc.lock records."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from mlflow import MlflowClient
from mlflow.entities import Run, ViewType

from retrace.pipeline.recorded import RecordedStage
from retrace.store import backend, cached_stages, filters, lifecycle, names, run_tags

SOURCE = "retrace.source"  # tag of a run that was read from dvc.lock, with LOCK as value
LOCK = "dvc.lock"

Identity = tuple[str, ...]


@dataclass(frozen=True)
class StageRun:
    """The run of a stage; `run` is None if it was created just now."""

    id: str
    summary: Mapping[str, float]
    run: Run | None = None


class Makers:
    """The runs of an MLflow experiment. With `are_many`, all are read at once, else each by itself.

    A stage that was tracked is known by the bytes that it made, one that was read from dvc.lock by
    its inputs and its outputs.
    """

    def __init__(self, client: MlflowClient, experiment: str, *, are_many: bool) -> None:
        self._client = client
        self._experiment = experiment
        self._are_many = are_many
        self._parents: dict[str, Run] | None = None
        self._active: set[str] | None = None  # of the runs that the parents are linked to
        self._stages: dict[Identity, Run] | None = None
        self._new: dict[Identity, StageRun] = {}

    def parent(self, key: str, *, is_new: bool = False) -> Run | None:
        """Return the run of the experiment with this key; `is_new` asks MLflow again."""
        if is_new or not self._are_many:
            return lifecycle.first(self._client, self._experiment, {"retrace.key": key})
        if self._parents is None:
            active = self._search(filters.exists("retrace.key"))
            deleted = self._search(filters.exists("retrace.key"), ViewType.DELETED_ONLY)
            runs = [*_newest_first(deleted), *_newest_first(active)]
            self._parents = {run.data.tags["retrace.key"]: run for run in runs}
        run = self._parents.get(key)
        if run and run.info.lifecycle_stage != lifecycle.ACTIVE:
            lifecycle.restore(self._client, [run.info.run_id])
        return run

    def lost(self, parent: Run) -> set[str]:
        """Return the ids of the runs that an experiment is linked to, and that are deleted."""
        linked = run_tags.linked_runs(parent.data.tags)
        if not self._are_many or self._parents is None:
            return linked - lifecycle.active(self._client, linked)
        if self._active is None:
            of_all = (run_tags.linked_runs(run.data.tags) for run in self._parents.values())
            self._active = lifecycle.active(self._client, set().union(*of_all))
        return linked - self._active

    def stage(self, stage: RecordedStage) -> StageRun | None:
        """Return the run of a stage."""
        if _by_lock(stage) in self._new:
            return self._new[_by_lock(stage)]
        runs = self._all() if self._are_many else self._candidates(stage)
        run = runs.get(_by_lock(stage))
        if run is None and stage.outs:
            run = runs.get(_by_outs(names.storable(stage.name), stage.outs.values()))
        return StageRun(run.info.run_id, cached_stages.summary(run), run) if run else None

    def add(self, stage: RecordedStage, run: str) -> None:
        """Remember a run that was created just now."""
        self._new[_by_lock(stage)] = StageRun(run, stage.summary)

    def _all(self) -> dict[Identity, Run]:
        if self._stages is None:
            self._stages = _by_identity(self._search(filters.exists("retrace.stage")))
        return self._stages

    def _candidates(self, stage: RecordedStage) -> dict[Identity, Run]:
        of_stage = filters.equals(filters.tag("retrace.stage"), stage.name)
        md5s = list(stage.outs.values())[:1]
        experiments = [self._experiment]
        runs = run_tags.makers(self._client, experiments, md5s, (of_stage,))
        runs += run_tags.with_value(self._client, experiments, "inputs", stage.inputs, (of_stage,))
        return _by_identity(runs)

    def _search(self, query: str, view: int = ViewType.ACTIVE_ONLY) -> Iterator[Run]:
        return backend.search_runs(self._client, [self._experiment], query, view=view)


def is_imported(run: Run) -> bool:
    """Return whether a run was read from dvc.lock."""
    return run.data.tags.get(SOURCE) == LOCK


def _by_identity(runs: Iterable[Run]) -> dict[Identity, Run]:
    """Return runs of stages by what they are known by, the oldest if there are several.

    A run that was not read from dvc.lock counts only if it is finished.
    """
    known: dict[Identity, Run] = {}
    for run in _newest_first(runs):
        stage = run.data.tags["retrace.stage"]
        outs = cached_stages.hashes(run, "outs").values()
        is_finished = run.info.status == "FINISHED"
        if is_finished or is_imported(run):
            known[stage, run_tags.value(run.data.tags, "inputs") or "", *sorted(outs)] = run
        if is_finished and not is_imported(run):
            known[_by_outs(stage, outs)] = run
    return known


def _by_lock(stage: RecordedStage) -> Identity:
    return (names.storable(stage.name), stage.inputs, *sorted(stage.outs.values()))


def _by_outs(stage: str, md5s: Iterable[str]) -> Identity:
    """Return what a tracked stage with outputs is known by."""
    return (stage, "", *sorted(md5s))


def _newest_first(runs: Iterable[Run]) -> list[Run]:
    return sorted(runs, key=lambda run: run.info.start_time, reverse=True)
