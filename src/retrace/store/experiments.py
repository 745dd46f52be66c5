"""Add to MLflow, as runs, what git and DVC keep: the workspace, DVC's experiments, commits."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import Run

from retrace import settings
from retrace.errors import RetraceError
from retrace.pipeline import git, git_objects, history
from retrace.pipeline.git import ExperimentRef
from retrace.pipeline.git_objects import Commit
from retrace.pipeline.recorded import Recorded
from retrace.pipeline.snapshot import Snapshot
from retrace.settings import Settings
from retrace.store import backend, filters, lifecycle, renames, run_tags
from retrace.store.importing import Import, Origin
from retrace.system import files, machine
from retrace.system.terminal import plain

FEW = 10  # experiments for which it is faster to ask MLflow for each

Progress = Callable[[str, int, int], None]


@dataclass
class Added:
    """How many experiments were added or completed, and which could not be read, and why."""

    n: int = 0
    skipped: list[str] = field(default_factory=list)


def add_missing(
    client: MlflowClient, *, all_commits: bool = False, progress: Progress = lambda *_: None
) -> Added:
    """Add a run for each DVC experiment, the workspace, and with `all_commits` each commit.

    It shows what dvc.lock records of an experiment, with a run for each stage that MLflow does not
    know. Experiments with the same key share a run, which names the first commit. Existing runs get
    `dvc.exp_rev`, DVC's new name and links to the runs of stages; runs that were deleted in MLflow
    are restored. `progress` is called with what is done, how many there are done, and how many in
    all. Raises RetraceError if the settings are not valid.
    """
    added = Added()
    refs = git.experiments()
    parents = list(_with_commit(client))
    n_renamed = renames.follow(client, parents, refs)
    known = _complete(client, parents, {ref.rev for ref in refs})
    origins: dict[str, Origin] = {}  # by key
    named = defaultdict[str, list[ExperimentRef]](list)
    reader = _Reader(settings.load(files.root()), added.skipped, progress)
    commits = git_objects.commits() if all_commits else []
    for origin in reader.read(commits, [ref for ref in refs if ref.rev not in known]):
        key = origin.experiment.key
        origins.setdefault(key, origin)
        named[key] += [origin.ref] if origin.ref else []
    are_many = len(origins) > FEW
    importing = Import(client, refs, parents, are_many=are_many)
    items = [(origin, named[key]) for key, origin in origins.items()]
    added.n = importing.add_all(items, lambda n: progress("experiments in MLflow", n, len(items)))
    added.n += n_renamed
    renames.remember(refs)
    return added


def add(client: MlflowClient, state: Snapshot, commit: str) -> None:
    """Add a run for the DVC experiment with this commit, whose state is known.

    Of a part of the pipeline, too, unlike `add_missing`.
    """
    with history.opened(settings.load(files.root())) as reader:
        experiment = reader.read(commit)
    if experiment is None:
        return
    refs = [ref for ref in git.experiments() if ref.rev == commit]
    at = Commit(commit, git.commit_time(commit), machine.user(), refs[0].name if refs else "")
    known = replace(experiment, key=state.key, params=state.params, is_complete=True)
    origin = Origin(known, at, refs[0] if refs else None)
    Import(client, refs, (), are_many=False).add_all([(origin, refs)], lambda _: None)


class _Reader:
    """Reads experiments; what cannot be read is added to `skipped`."""

    def __init__(self, settings: Settings, skipped: list[str], progress: Progress) -> None:
        self._settings = settings
        self._skipped = skipped
        self._progress = progress

    def read(self, commits: list[Commit], refs: Iterable[ExperimentRef]) -> Iterator[Origin]:
        """Yield the experiments of commits, then DVC's, then that of the workspace."""
        with history.opened(self._settings) as commits_reader:
            for n, commit in enumerate(commits, 1):
                yield from self._commit(commits_reader, commit, None)
                self._progress("commits read", n, len(commits))
            for ref in refs:
                commit = Commit(ref.rev, ref.time, machine.user(), ref.name)
                yield from self._commit(commits_reader, commit, ref)
        yield from self._workspace()

    def _commit(
        self, reader: history.History, commit: Commit, ref: ExperimentRef | None
    ) -> Iterator[Origin]:
        try:
            experiment = reader.read(commit.rev)
        except RetraceError as error:
            kind = f"experiment {commit.subject}" if ref else f"commit {commit.rev[:7]}"
            self._skipped.append(plain(f"{kind}: {error}"))
            return
        if experiment:
            yield Origin(experiment, commit, ref)

    def _workspace(self) -> Iterator[Origin]:
        try:
            workspace = Recorded(Path())
            if workspace.entries:
                experiment = workspace.experiment(self._settings)
                yield Origin(experiment, _workspace_commit(workspace), None)
        except (RetraceError, KeyError, OSError) as error:
            self._skipped.append(plain(f"workspace: {' '.join(str(error).split())}"))


def _workspace_commit(workspace: Recorded) -> Commit:
    """Return the commit that added what dvc.lock records; if it is not committed, HEAD.

    Without a message, it is not the commit of this dvc.lock.
    """
    locks = [Path(file).with_suffix(".lock") for file in workspace.declared.files]
    here = [lock for lock in locks if lock.exists()]
    is_committed = all(git.read_file("HEAD", lock) == lock.read_bytes() for lock in here)
    commit = git_objects.last_commit(*map(str, here)) if is_committed else None
    if commit:
        return commit
    head = git.head_commit() or ""
    return Commit(head, git.commit_time("HEAD"), machine.user(), "")


def _complete(client: MlflowClient, parents: Iterable[Run], revs: set[str]) -> set[str]:
    """Return those of these commits whose run has its key and all runs of its stages."""
    here = [run for run in parents if run.data.tags["dvc.exp_rev"] in revs]
    linked = {run.info.run_id: run_tags.linked_runs(run.data.tags) for run in here}
    active = lifecycle.active(client, set().union(*linked.values()))
    return {
        run.data.tags["dvc.exp_rev"]
        for run in here
        if linked[run.info.run_id] <= active and "retrace.key" in run.data.tags
    }


def _with_commit(client: MlflowClient) -> Iterator[Run]:
    """Yield the runs of DVC's experiments whose commit is known."""
    return backend.search_runs(client, backend.experiments(client), filters.exists("dvc.exp_rev"))
