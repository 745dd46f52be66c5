"""Give runs the names that DVC's experiments have now.

`dvc exp rename` keeps the commit, by which the run of an experiment is known. Clones that share a
store may have different names for one commit. So that they do not keep renaming its run, each clone
remembers the names of its last synchronization, and passes on only what has changed since.
"""

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping

from mlflow import MlflowClient
from mlflow.entities import Run

from retrace.pipeline.git import ExperimentRef
from retrace.store import entries, runs
from retrace.system import files

FILE = "experiments.json"  # in .retrace: the names of each commit

Names = dict[str, list[str]]  # of DVC's experiments, by commit


def known() -> Names:
    """Return the names that this clone has passed on, also those of removed experiments."""
    file = files.root() / ".retrace" / FILE
    try:
        return dict(json.loads(file.read_text(encoding="utf-8")))
    except (FileNotFoundError, ValueError, TypeError):  # the first time, or damaged
        return {}


def remember(refs: Iterable[ExperimentRef]) -> None:
    """Keep the names of these experiments, for `known`."""
    before = known()
    names = before | _by_commit(refs)
    if names != before:
        with files.atomic(files.root() / ".retrace" / FILE) as file:
            file.write_text(json.dumps(names, indent=0), encoding="utf-8")


def follow(client: MlflowClient, parents: Iterable[Run], refs: Iterable[ExperimentRef]) -> int:
    """Rename the runs of experiments that were renamed here; return how many."""
    before = known()
    here = {(ref.rev, ref.name): ref for ref in refs}
    names = _by_commit(here.values())
    n_renamed = 0
    for run in parents:
        rev = run.data.tags["dvc.exp_rev"]
        own = names.get(rev, [])
        if own and run.data.tags.get("dvc.exp_name") not in own and own != before.get(rev):
            rename(client, run, here[rev, own[0]])
            n_renamed += 1
    return n_renamed


def rename(client: MlflowClient, run: Run, ref: ExperimentRef) -> None:
    """Name an experiment's run and the runs of its stages after a DVC experiment."""
    before = run.data.tags.get("dvc.exp_name")
    tags = {"dvc.exp_name": ref.name, "dvc.baseline_rev": ref.baseline}
    stages = runs.children(client, run.info.experiment_id, run.info.run_id) if before else []
    for stage in stages:
        if stage.data.tags.get("dvc.exp_name") == before:
            entries.log_tags(client, stage.info.run_id, tags)
    entries.log_tags(client, run.info.run_id, tags | runs.naming(run, ref.name))


def _by_commit(refs: Iterable[ExperimentRef]) -> Names:
    names: Mapping[str, list[str]] = defaultdict(list)
    for ref in sorted(refs, key=lambda ref: ref.name):
        names[ref.rev].append(ref.name)
    return dict(names)
