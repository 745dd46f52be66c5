"""What a name stands for that a user types: the workspace, an experiment of DVC's, a commit, or a run of MLflow's; with
its parameters, its figures and the MD5 of all that it read and made.

Git and DVC are asked first, and know all but how long training took and what came out beside the pictures. MLflow also
knows what DVC has forgotten; where it is away, what DVC knows is told without it.
"""

import difflib
import json
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from retrace import settings
from retrace.errors import DataError, ParamsError, RetraceError
from retrace.pipeline import git, graph, hashing, overrides, params_file
from retrace.pipeline.metrics import parse_metrics
from retrace.provenance import locations
from retrace.provenance.locations import Output
from retrace.provenance.run_index import RunIndex
from retrace.store import backend, cached_stages, groups
from retrace.system.redaction import redacted

WORKSPACE = "workspace"  # as DVC calls it
WANTED = (
    "`workspace`, an experiment (`dvc exp list`), a commit, branch or tag, or six digits or more of a run's id "
    "(`retrace leaderboard`)"
)
OF_TRAINING = ("train_s", "kept_epoch")  # figures that train's run alone has, not its experiment's
TOLD = (
    str(settings.WEIGHTS),
    str(settings.FIGURES),
)  # whose makers tell MLflow figures that reports/metrics.json lacks

Answer = TypeVar("Answer")


@dataclass(frozen=True)
class NamedExperiment:
    """An experiment under the `name` that was typed; `said` is what that is, `notes` are what is not as it should be.

    Parameters are flat (`models.cnn.hidden`) and text, as MLflow has them. `deps` and `outs` are MD5s by path.
    """

    name: str
    said: str
    params: Mapping[str, str]
    metrics: Mapping[str, float]
    deps: Mapping[str, str]
    outs: Mapping[str, str]
    notes: tuple[str, ...] = ()


class Resolver:
    """Resolver are looked up here. `away` says why MLflow has no answer, if that is so."""

    def __init__(self) -> None:
        self.away, self._origins = "", None
        if backend.is_missing(backend.address()):  # or it would be made
            self.away = f"MLflow: {redacted(backend.address())} does not exist"
            return
        try:
            with backend.answering():
                self._origins = RunIndex()
        except backend.AwayError as error:
            self.away = str(error)

    def resolve(self, name: str) -> NamedExperiment:
        """Raises RetraceError where nothing is called so, or more than one thing is."""
        if name == WORKSPACE:
            return self._of_tree(name, "the workspace", Path())
        revs = {
            ref.rev: f"DVC's experiment, commit {ref.rev[:12]}"
            for ref in git.experiments()
            if ref.name == name
        }
        if commit := git.resolve_commit(name):
            revs.setdefault(commit, f"commit {commit[:12]}")
        run = self._ask(lambda index: index.run(name) or (None if revs else _called(name, index)))
        if len(found := [*revs.values(), *([f"run {run.info.run_id}"] if run else [])]) > 1:
            raise RetraceError(
                f"{name}: may be {' or '.join(found)}; give the commit, or more digits of the run's id"
            )
        for rev, said in revs.items():
            with git.export(rev) as folder:
                return self._of_tree(name, said, folder)
        known = run and self._ask(lambda index: _of_run(name, run, index))
        if not known:
            raise RetraceError(f"{name}: {self._unknown(name)}")
        return known

    def read_output(
        self, named: NamedExperiment, path: Path, read: Callable[[Path], Answer]
    ) -> Answer | None:
        """What `read` makes of a file that the experiment made; None where neither the work tree, nor DVC's cache, nor
        MLflow's artifacts have it whole.
        """
        md5 = named.outs.get(str(path))
        if md5 is None:
            return None
        if found := locations.local_copy(str(path), md5):
            return read(found)
        with tempfile.TemporaryDirectory() as folder:
            got = self._ask(lambda index: _artifact(index, str(path), md5, folder))
            return read(got) if got else None

    def _of_tree(self, name: str, said: str, folder: Path) -> NamedExperiment:
        """What dvc.lock in `folder` says was made there. Raises RetraceError where it says nothing."""
        try:
            locked = graph.locked(folder)
        except DataError:
            raise RetraceError(
                f"{name}: {said} has a {graph.LOCK} that is not as DVC has it; name another"
            ) from None
        if not locked:
            raise RetraceError(
                f"{name}: {said} has no {graph.LOCK}, so nothing was made there; `dvc repro` makes it"
            )
        current = _current(locked)
        ran = {
            key: value
            for entry in current.values()
            for key, value in overrides.flatten(entry.params).items()
        }
        bare = NamedExperiment(
            name,
            said,
            params={key: redacted(str(value)) for key, value in ran.items()},
            metrics={},
            deps={path: md5 for entry in current.values() for path, md5 in entry.deps.items()},
            outs={path: md5 for entry in current.values() for path, md5 in entry.outs.items()},
            notes=tuple(_notes(locked, current, folder)),
        )
        return self._with_metrics(bare, folder / settings.METRICS)

    def _with_metrics(self, named: NamedExperiment, file: Path) -> NamedExperiment:
        """Its figures from `file`, where that is what evaluate made, or from wherever that is now."""
        said, notes = named.outs.get(str(settings.METRICS)), named.notes
        if said and file.exists() and hashing.md5(file) == said:
            metrics = _loaded(file)
        else:
            metrics = self.read_output(named, settings.METRICS, _loaded) or {}
        if said and not metrics:
            notes = (
                *notes,
                f"what evaluate made as {settings.METRICS} is nowhere: no figures of it",
            )
        for path in TOLD:
            if md5 := named.outs.get(path):
                told = _told(self._ask(lambda index, path=path, md5=md5: index.maker(path, md5)))
                metrics |= {name: value for name, value in told.items() if name not in metrics}
        return replace(named, metrics=metrics, notes=notes)

    def _ask(self, question: Callable[[RunIndex], Answer]) -> Answer | None:
        """MLflow's answer; None where it is away, now or since another question."""
        if self._origins is None:
            return None
        try:
            with backend.answering():
                return question(self._origins)
        except backend.AwayError as error:
            self.away, self._origins = str(error), None
            return None

    def _unknown(self, name: str) -> str:
        near = difflib.get_close_matches(name, [ref.name for ref in git.experiments()], n=1)
        meant = f"; did you mean {near[0]}?" if near else ""
        away = f" ({self.away})" if self.away else ""
        return f"nothing is called so{away}; should be {WANTED}{meant}"


def _current(locked: Mapping[str, graph.Locked]) -> dict[str, graph.Locked]:
    """The stages that read what those before them made; the others are left over from another experiment."""
    made: dict[str, str] = {}
    current = {}
    for stage in (stage for stage in graph.names() if stage in locked):
        entry = locked[stage]
        if all(made.get(path, md5) == md5 for path, md5 in entry.deps.items()):
            current[stage] = entry
            made |= entry.outs
        else:
            made |= dict.fromkeys(entry.outs, "")  # who has read these is left over as well
    return current


def _notes(
    locked: Mapping[str, graph.Locked], current: Mapping[str, graph.Locked], folder: Path
) -> Iterator[str]:
    if old := [stage for stage in locked if stage not in current]:
        yield f"{', '.join(old)} did not run since a stage before made other files: left out; `dvc repro` runs the rest"
    try:
        now = overrides.flatten(params_file.read(folder / settings.PARAMS))
    except ParamsError:
        return
    ran = [item for entry in current.values() for item in overrides.flatten(entry.params).items()]
    if others := sorted({key for key, value in ran if now.get(key) != value}):
        yield f"{settings.PARAMS} has other values than what ran, which are shown: {', '.join(others)}"


def _of_run(name: str, run: backend.Run, index: RunIndex) -> NamedExperiment:
    """An experiment as MLflow has it. Raises RetraceError where the run is none, nor a stage of one."""
    parent = run if "retrace.key" in run.data.tags else index.parent(run)
    if parent is None or "retrace.key" not in parent.data.tags:
        what = (
            "sums up folds; name a run below it"
            if groups.SUMMARY in run.data.tags
            else "is no experiment's"
        )
        raise RetraceError(
            f"{name}: run {run.info.run_id} {what}; `retrace leaderboard` lists experiments"
        )
    stages = {stage.data.tags["retrace.stage"]: stage for stage in index.stages(parent)}
    return NamedExperiment(
        name,
        said=f"{parent.info.status} in MLflow as {parent.info.run_name}, run {parent.info.run_id}",
        params=parent.data.params,
        metrics=parent.data.metrics | _told(stages.get("train")),
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
    )


def _called(name: str, index: RunIndex) -> backend.Run | None:
    """The experiment's run of this name. Raises RetraceError where there are several."""
    if not name or "'" in name:  # what MLflow's filter can't ask for
        return None
    asked = f"attributes.run_name = '{name}' and tags.`retrace.key` LIKE '%'"
    found = list(backend.every(index.client, index.experiments, asked))
    if len(found) > 1:
        ids = ", ".join(run.info.run_id for run in found)
        raise RetraceError(
            f"{name}: so are called {len(found)} runs of MLflow's, {ids}; give the id of one"
        )
    return found[0] if found else None


def _artifact(index: RunIndex, path: str, md5: str, folder: str) -> Path | None:
    """The file of these bytes out of any run's artifacts, put into `folder`."""
    got = (
        locations.download(index.client, Output(path, md5, run.info.run_id, None), folder)
        for run in index.makers(md5)
    )
    return next(filter(None, got), None)


def _told(run: backend.Run | None) -> dict[str, float]:
    """The figures of a stage's run that an experiment is compared by."""
    if run is None:
        return {}
    of_training = {name: run.data.metrics[name] for name in OF_TRAINING if name in run.data.metrics}
    return json.loads(run.data.tags.get(cached_stages.HEADLINE, "{}")) | of_training


def _loaded(file: Path) -> dict[str, float]:
    return parse_metrics(file.read_bytes())
