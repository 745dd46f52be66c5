"""Make runs of what dvc.lock records of an experiment and its stages."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from mlflow import MlflowClient
from mlflow.entities import Run

from retrace.event_log import Event
from retrace.pipeline import git
from retrace.pipeline.git import ExperimentRef
from retrace.pipeline.git_objects import Commit
from retrace.pipeline.recorded import Experiment, RecordedStage
from retrace.store import (
    backend,
    cached_stages,
    lifecycle,
    names,
    new_runs,
    renames,
    run_tags,
    runs,
)
from retrace.store.makers import LOCK, SOURCE, Makers, StageRun, is_imported
from retrace.store.new_runs import Content
from retrace.system.redaction import redacted, redacted_all

PER_TRANSACTION = 100  # experiments


@dataclass(frozen=True)
class Origin:
    """An experiment, the commit that it was read from, and the DVC experiment that this is.

    Without a subject, the commit is the last one before dvc.lock was written.
    """

    experiment: Experiment
    commit: Commit
    ref: ExperimentRef | None


class Import:
    """Adds experiments to MLflow. Adding one again changes nothing, also after an interruption.

    `refs` are the DVC experiments of this clone, `parents` the runs whose commit is known.
    """

    def __init__(
        self,
        client: MlflowClient,
        refs: Collection[ExperimentRef],
        parents: Iterable[Run],
        *,
        are_many: bool,
    ) -> None:
        self._client = client
        self._refs = refs
        self._revs = {ref.rev for ref in refs}
        self._known = renames.known()
        self._without_key = {
            run.data.tags["dvc.exp_rev"]: run
            for run in parents
            if "retrace.key" not in run.data.tags
        }
        self._are_many = are_many
        self._new = new_runs.writer(client)
        self._makers: dict[str, Makers] = {}  # by the name of the MLflow experiment
        self._experiments: dict[str, str] = {}

    def add_all(
        self, items: Sequence[tuple[Origin, list[ExperimentRef]]], progress: Callable[[int], object]
    ) -> int:
        """Add or complete the runs of experiments; return how many changed.

        With each are the DVC experiments of the same key. `progress` is called with the number of
        those that are done. The store is locked for all, or, if it is slow, for each by itself.
        """
        n_changed = 0
        n_done = 0
        for batch in [items] if self._new.is_fast else [[item] for item in items]:
            with backend.lock():
                for origin, refs in batch:
                    n_changed += self._add(origin, refs)
                    n_done += 1
                    if n_done % PER_TRANSACTION == 0:
                        self._new.flush()
                    progress(n_done)
                self._new.flush()
        return n_changed

    def _add(self, origin: Origin, refs: list[ExperimentRef]) -> bool:
        """Add or complete the run of an experiment; return False if it already was complete."""
        name = origin.experiment.place["mlflow_experiment"]
        makers = self._of(name)
        run = makers.parent(origin.experiment.key)
        if run is None and not self._new.is_fast:
            run = makers.parent(origin.experiment.key, is_new=True)  # the store was not locked
        if run is None and origin.ref:  # a user has deleted the tag
            run = self._without_key.get(origin.ref.rev)
        ref = self._ref(run, refs)
        is_named = ref is None or (run and run.data.tags.get("dvc.exp_rev") in self._revs)
        lost = makers.lost(run) if run else set()
        gone = lifecycle.restore(self._client, lost)
        if run and is_named and not lost and _is_complete(run, origin.experiment):
            return run.info.lifecycle_stage != lifecycle.ACTIVE  # it was deleted until now
        known = {stage.name: makers.stage(stage) for stage in origin.experiment.stages}
        if run is None and not origin.experiment.is_complete and all(known.values()):
            return False  # a part of an experiment that was tracked
        adding = _Adding(self._client, self._new, self._experiments[name], origin, ref)
        adding.add(run, makers, known, gone)
        return True

    def _ref(self, parent: Run | None, refs: list[ExperimentRef]) -> ExperimentRef | None:
        """Return the DVC experiment to name the parent after.

        None if the parent is already named after an experiment of another clone; otherwise two
        clones that share a store would keep renaming it.
        """
        tags = parent.data.tags if parent else {}
        name = tags.get("dvc.exp_name")
        rev = tags.get("dvc.exp_rev", "")
        same = next((ref for ref in refs if ref.name == name), None)
        ref = same or next(iter(refs), None)
        if parent is None or ref is None or name is None or rev in self._known:
            return ref
        if rev:
            is_new = same is not None and ref.rev not in self._known
            return ref if is_new or git.has_commit(rev) else None
        is_other = name in {each.name for each in self._refs} or parent.info.status == "RUNNING"
        is_renamed = not is_other and tags.get("dvc.baseline_rev") == ref.baseline
        return ref if same or is_renamed else None

    def _of(self, name: str) -> Makers:
        if name not in self._makers:
            self._experiments[name] = backend.experiment_of(self._client, name)
            experiment = self._experiments[name]
            self._makers[name] = Makers(self._client, experiment, are_many=self._are_many)
        return self._makers[name]


class _Adding:
    """One experiment that is added to MLflow."""

    def __init__(
        self,
        client: MlflowClient,
        new: new_runs.NewRuns,
        experiment: str,
        origin: Origin,
        ref: ExperimentRef | None,
    ) -> None:
        self._client = client
        self._new = new
        self._experiment = experiment
        self._origin = origin
        self._ref = ref
        self._start = _start(origin, ref)

    def add(
        self,
        run: Run | None,
        makers: Makers,
        known: Mapping[str, StageRun | None],
        gone: Collection[str],
    ) -> None:
        """Add the experiment's run, or complete `run`.

        `known` are the runs of stages, `gone` those that it is linked to and that do not exist.
        """
        parent = run.info.run_id if run else self._created()
        is_new = run is None or _is_unfinished(run)
        metrics = dict(self._origin.experiment.numbers) if is_new else {}
        tags: dict[str, str] = {}
        linked: dict[str, Run] = {}
        for stage in self._origin.experiment.stages:
            link = run_tags.linked_run(run.data.tags, stage.name) if run else None
            if not is_new and link and link not in gone:
                continue
            maker = known[stage.name]
            if maker is None or _is_unfinished(maker.run):
                child = self._stage(stage, parent, maker)
                makers.add(stage, child)
                metrics |= stage.summary
                tags[run_tags.hidden(f"run.{stage.name}")] = child
                if run and run_tags.cached_run(run.data.tags, stage.name) in gone:
                    self._client.delete_tag(parent, names.encode(f"{run_tags.CACHED}{stage.name}"))
            elif run is None and self._adopt(maker, parent):
                metrics |= maker.summary
                tags[run_tags.hidden(f"run.{stage.name}")] = maker.id
            else:
                metrics |= maker.summary
                tags[f"{run_tags.CACHED}{stage.name}"] = maker.id
                linked |= {stage.name: maker.run} if maker.run else {}
        self._log(run, parent, metrics, tags | self._names(run), linked)

    def _names(self, run: Run | None) -> dict[str, str]:
        """Return the tags that identify the experiment's run; rename those of its stages."""
        if self._ref is None:
            return {}
        if run and run.data.tags.get("dvc.exp_name") != self._ref.name:
            renames.rename(self._client, run, self._ref)
        key = {"retrace.key": self._start["key"]}
        return {"dvc.exp_rev": self._ref.rev} | self._start["experiment"] | key

    def _adopt(self, maker: StageRun, parent: str) -> bool:
        """Move a stage's run below the new run of its experiment, if it has lost its own.

        Return whether it was moved.
        """
        above = maker.run.data.tags.get("mlflow.parentRunId", "") if maker.run else ""
        if not above or lifecycle.find(self._client, above):
            return False
        self._client.set_tag(maker.id, "mlflow.parentRunId", parent)
        return True

    def _log(
        self,
        run: Run | None,
        parent: str,
        metrics: dict[str, float],
        tags: dict[str, str],
        linked: Mapping[str, Run],
    ) -> None:
        content = Content(self._start["time"], self._start["params"], metrics, tags)
        if run is None or _is_unfinished(run):
            self._new.finish(parent, content)
        else:
            self._new.flush()  # before anything refers to it
            new_runs.log(self._client, parent, content)
        has_models = any(each.outputs and each.outputs.model_outputs for each in linked.values())
        if has_models:
            self._new.flush()
            cached_stages.link(self._client, parent, linked)

    def _created(self) -> str:
        commit = self._origin.commit
        title = f"{commit.rev[:7]} {commit.subject}" if commit.subject else ""
        named = self._ref.name if self._ref else title or runs.unnamed(self._start["key"])
        tags = {SOURCE: LOCK} | runs.parent_tags(self._start, LOCK)
        title = runs.title(redacted(named))
        return self._new.create(self._experiment, title, self._start["time"], tags)

    def _stage(self, stage: RecordedStage, parent: str, unfinished: StageRun | None) -> str:
        """Create the run of a stage, or finish it; return its id."""
        code = {"commit": self._origin.commit.rev, "experiment": {}}
        tags = {
            "mlflow.parentRunId": parent,
            SOURCE: LOCK,
            "retrace.stage": stage.name,
            run_tags.hidden("attempt"): "1",
            run_tags.hidden("inputs"): stage.inputs,
        }
        tags |= runs.origin(self._start | code, LOCK)
        tags |= run_tags.of_deps(stage.deps, stage.data)
        tags |= run_tags.of_outs(stage.outs, {})
        time = self._start["time"]
        title = runs.title(stage.name)
        child = unfinished and unfinished.id
        child = child or self._new.create(self._experiment, title, time, tags)
        content = Content(
            time=time,
            params=redacted_all(stage.params),
            metrics=stage.contents.numbers,
            tags=redacted_all(stage.contents.texts) | cached_stages.summary_tags(stage.summary),
        )
        self._new.finish(child, content)
        return child


def _start(origin: Origin, ref: ExperimentRef | None) -> Event:
    """Return an event like the first of a stage's event log, for the experiment's run."""
    named = {"dvc.exp_name": ref.name, "dvc.baseline_rev": ref.baseline} if ref else {}
    experiment = origin.experiment
    return {
        **experiment.place,
        "key": experiment.key,
        "experiment": named,
        "commit": ref.baseline if ref else origin.commit.rev,
        "user": origin.commit.author,
        "time": origin.commit.time,
        "params": redacted_all(experiment.params),
    }


def _is_complete(parent: Run, experiment: Experiment) -> bool:
    """Return whether the parent has its key and is linked to a run for each stage."""
    are_linked = all(_is_linked(parent, stage.name) for stage in experiment.stages)
    return are_linked and "retrace.key" in parent.data.tags and not _is_unfinished(parent)


def _is_linked(parent: Run, stage: str) -> bool:
    return run_tags.linked_run(parent.data.tags, stage) is not None


def _is_unfinished(run: Run | None) -> bool:
    """Return whether the import of a run was interrupted."""
    return run is not None and is_imported(run) and run.info.status != "FINISHED"
