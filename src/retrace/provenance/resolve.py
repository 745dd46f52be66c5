"""Resolve a name that a user types: the workspace, a DVC experiment, a commit, or an MLflow run.

The result has its parameters, its metrics and the MD5 of each input and output. Git and DVC are
searched first; they lack only what was logged to MLflow and is in no metrics file.
MLflow also has experiments that were removed from DVC. If it does not answer, its part is left out.
"""

import difflib
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TypeVar

from retrace.errors import DataError, ParamsError, RetraceError
from retrace.pipeline import git, hashing, lockfile, overrides, params_files, snapshot
from retrace.pipeline.workspace import Workspace, flat_params
from retrace.provenance import locations, logged_metrics
from retrace.provenance.locations import Output
from retrace.provenance.run_index import RunIndex
from retrace.store import backend, cached_stages, filters, groups
from retrace.system.redaction import redacted

WORKSPACE = "workspace"  # DVC's name for it
WANTED = (
    "`workspace`, an experiment (`dvc exp list`), a commit, branch or tag, "
    "or six digits or more of a run's id (`retrace leaderboard`)"
)

Answer = TypeVar("Answer")


@dataclass(frozen=True)
class NamedExperiment:
    """An experiment, with the `name` that the user typed.

    `description` says what it is, `notes` what is wrong with it. Parameters are flat
    (`net.width`) and text, as in MLflow. `deps` and `outs` are MD5s by path; `runs` are the ids of
    MLflow's runs by stage.
    """

    name: str
    description: str
    params: Mapping[str, str]
    metrics: Mapping[str, float]
    deps: Mapping[str, str]
    outs: Mapping[str, str]
    notes: tuple[str, ...] = ()
    runs: Mapping[str, str] = field(default_factory=dict)


class Resolver:
    """Looks up names. `unavailable` is the reason why MLflow does not answer, or empty."""

    def __init__(self) -> None:
        self.unavailable = ""
        self._index: RunIndex | None = None
        if backend.is_missing(backend.address()):  # a client would create it
            self.unavailable = f"MLflow: {redacted(backend.address())} does not exist"
            return
        try:
            with backend.mlflow_errors():
                self._index = RunIndex()
        except backend.StoreUnavailableError as error:
            self.unavailable = str(error)

    def resolve(self, name: str) -> NamedExperiment:
        """Return the experiment called `name`. Raises RetraceError unless there is exactly one."""
        if name == WORKSPACE:
            return self._from_tree(name, "the workspace", Path())
        revs = {
            ref.rev: f"DVC's experiment, commit {ref.rev[:12]}"
            for ref in git.experiments()
            if ref.name == name
        }
        if commit := git.resolve_commit(name):
            revs.setdefault(commit, f"commit {commit[:12]}")
        run = self._ask(lambda index: index.run(name) or (None if revs else _called(name, index)))
        candidates = [*revs.values(), *([f"run {run.info.run_id}"] if run else [])]
        if len(candidates) > 1:
            advice = "give the commit, or more digits of the run's id"
            raise RetraceError(f"{name} is ambiguous: {' or '.join(candidates)}; {advice}")
        for rev, description in revs.items():
            with snapshot.export(rev) as folder:
                return self._from_tree(name, description, folder)
        known = run and self._ask(lambda index: _from_run(name, run, index))
        if not known:
            deleted = self._ask(lambda index: index.deleted(name))
            raise RetraceError(deleted or f"{name}: {self._unknown(name)}")
        return known

    def read_output(
        self, named: NamedExperiment, path: Path, read: Callable[[Path], Answer]
    ) -> Answer | None:
        """Return what `read` returns for an output of the experiment.

        None if neither the work tree, nor DVC's cache, nor MLflow's artifacts have it intact.
        """
        md5 = named.outs.get(str(path))
        if md5 is None:
            return None
        file = locations.local_copy(str(path), md5)
        if file:
            return read(file)
        with tempfile.TemporaryDirectory() as folder:
            got = self._ask(lambda index: _artifact(index, str(path), md5, folder))
            return read(got) if got else None

    def history(self, named: NamedExperiment) -> list[dict[str, float]]:
        """Return the metrics that MLflow has by step, a row for each step."""
        runs = named.runs.values()
        return self._ask(lambda index: logged_metrics.history(index, runs)) or [] if runs else []

    def _from_tree(self, name: str, description: str, folder: Path) -> NamedExperiment:
        """Return the experiment in dvc.lock of `folder`. Raises RetraceError without one."""
        try:
            workspace = Workspace(folder)
            locked = workspace.locked
        except DataError as error:
            reason = f"cannot be read ({error}); name another experiment"
            raise RetraceError(f"{name}: {description} {reason}") from None
        if not locked:
            reason = "has no dvc.lock, so it has no results; `dvc repro` creates it"
            raise RetraceError(f"{name}: {description} {reason}")
        current = lockfile.current(locked)
        params: overrides.Flat = {}
        deps: dict[str, str] = {}
        outs: dict[str, str] = {}
        for entry in current.values():
            params |= flat_params(entry.params)
            deps |= lockfile.md5s(entry.deps)
            outs |= lockfile.md5s(entry.outs)
        bare = NamedExperiment(
            name,
            description,
            params={key: redacted(str(value)) for key, value in params.items()},
            metrics={},
            deps=deps,
            outs=outs,
            notes=tuple(_notes(locked, current, folder)),
        )
        return self._with_metrics(bare, workspace, current)

    def _with_metrics(
        self, named: NamedExperiment, workspace: Workspace, stages: Iterable[str]
    ) -> NamedExperiment:
        """Add the metrics: from the metrics files, and from MLflow's runs of the stages."""
        metrics: dict[str, float] = {}
        runs: dict[str, str] = {}
        owners: dict[str, str | None] = {}
        notes = named.notes
        for path in workspace.pipeline.metrics_files:
            file = workspace.root / path
            md5 = named.outs.get(path)
            maker = workspace.pipeline.makers.get(path)
            prefix = workspace.pipeline.stages[maker].metrics_prefix if maker else ""
            read = partial(logged_metrics.of_file, suffix=file.suffix)
            if file.exists() and md5 in (None, hashing.md5(file)):
                values = read(file)
            else:
                values = self.read_output(named, Path(path), read) or {}
            if md5 and not values:
                missing = "was not found in the workspace, DVC's cache or MLflow"
                notes = (*notes, f"its {path} {missing}, so its metrics are missing")
            for key, value in values.items():  # named as in Workspace.summary
                is_first = prefix or owners.setdefault(key, maker) == maker
                metrics[f"{prefix}{key}" if is_first else f"{maker}/{key}"] = value
        for stage in stages:
            outs = [out.path for out in workspace.pipeline.stages[stage].outs]
            path = next((path for path in outs if path in named.outs), None)
            if path:
                md5 = named.outs[path]
                run = self._ask(lambda index, path=path, md5=md5: index.maker(path, md5))
                if run:
                    runs[stage] = run.info.run_id
                    metrics = (self._ask(partial(logged_metrics.of_stage, run)) or {}) | metrics
        return replace(named, metrics=metrics, notes=notes, runs=runs)

    def _ask(self, question: Callable[[RunIndex], Answer]) -> Answer | None:
        """Return MLflow's answer; None if it does not answer, now or at an earlier question."""
        if self._index is None:
            return None
        try:
            with backend.mlflow_errors():
                return question(self._index)
        except backend.StoreUnavailableError as error:
            self.unavailable = str(error)
            self._index = None
            return None

    def _unknown(self, name: str) -> str:
        near = difflib.get_close_matches(name, [ref.name for ref in git.experiments()], n=1)
        meant = f"; did you mean {near[0]}?" if near else ""
        unavailable = f" ({self.unavailable})" if self.unavailable else ""
        return f"not found{unavailable}; should be {WANTED}{meant}"


def _notes(
    locked: Mapping[str, lockfile.Locked], current: Mapping[str, lockfile.Locked], folder: Path
) -> Iterator[str]:
    if old := [stage for stage in locked if stage not in current]:
        were, their, them = ("was", "its", "it") if len(old) == 1 else ("were", "their", "them")
        why = "not rerun after the outputs of an earlier stage changed"
        left_out = f"so {their} results are left out; `dvc repro` reruns {them}"
        yield f"{', '.join(old)} {were} {why}, {left_out}"
    for file in dict.fromkeys(file for entry in current.values() for file in entry.params):
        try:
            now = params_files.select(params_files.read(folder / file), ())
        except ParamsError:
            continue
        recorded = (entry.params.get(file, {}) for entry in current.values())
        ran = [item for values in recorded for item in params_files.select(values, ()).items()]
        if others := sorted({key for key, value in ran if now.get(key) != value}):
            changed = f"was changed after the run ({', '.join(others)})"
            yield f"{file} {changed}; the values of the run are shown"


def _from_run(name: str, run: backend.Run, index: RunIndex) -> NamedExperiment:
    """Return an experiment as recorded in MLflow.

    Raises RetraceError if the run is neither an experiment nor a stage.
    """
    parent = run if "retrace.key" in run.data.tags else index.parent(run)
    if parent is None or "retrace.key" not in parent.data.tags:
        what = (
            "summarizes the folds of a cross-validation; name one of its child runs (one per fold)"
            if groups.SUMMARY in run.data.tags
            else "is neither an experiment nor a stage"
        )
        raise RetraceError(
            f"{name}: run {run.info.run_id} {what}; `retrace leaderboard` lists experiments"
        )
    stages = {stage.data.tags["retrace.stage"]: stage for stage in index.stages(parent)}
    info = parent.info
    return NamedExperiment(
        name,
        description=f"{info.status} in MLflow as {info.run_name}, run {info.run_id}",
        params=parent.data.params,
        metrics=parent.data.metrics
        | {
            key: value
            for stage in index.pipeline.training
            if stage in stages
            for key, value in logged_metrics.of_stage(stages[stage], index).items()
        },
        deps={
            path: md5
            for stage in stages.values()
            for path, md5 in cached_stages.hashes(stage, "deps").items()
        },
        outs={
            path: md5
            for stage in stages.values()
            for path, md5 in cached_stages.hashes(stage, "outs").items()
        },
        runs={stage: run.info.run_id for stage, run in stages.items()},
    )


def _called(name: str, index: RunIndex) -> backend.Run | None:
    """Return the experiment's run of this name. Raises RetraceError if there are several."""
    if not name:
        return None
    asked = f"{filters.equals('attributes.run_name', name)} and {filters.exists('retrace.key')}"
    similar = backend.search_runs(index.client, index.experiments, asked)
    runs = [run for run in similar if run.info.run_name == name]
    if len(runs) > 1:
        ids = ", ".join(run.info.run_id for run in runs)
        raise RetraceError(
            f"{name}: {len(runs)} runs in MLflow have this name: {ids}; give the id of one"
        )
    return runs[0] if runs else None


def _artifact(index: RunIndex, path: str, md5: str, folder: str) -> Path | None:
    """Download the file with this MD5 into `folder`, from the artifacts of any run that has it."""
    got = (
        locations.download(index.client, Output(path, md5, run.info.run_id, None), folder)
        for run in index.makers(md5)
    )
    return next(filter(None, got), None)
