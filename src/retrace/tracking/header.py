"""What an event log records of a stage before and after it runs, besides what the stage logs."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from retrace import event_log, settings
from retrace.errors import RetraceError
from retrace.event_log import EventLog
from retrace.pipeline import (
    dvc_ignore,
    git,
    git_patch,
    git_process,
    grouping,
    hashing,
    identity,
    integrity,
)
from retrace.pipeline.definition import Stage
from retrace.pipeline.workspace import Workspace
from retrace.system import files, machine

SUBMODULE = "code.patch has only this repository's changes: commit them there"
NO_COMMIT = "there is no commit yet: `git add --all && git commit -m start`"


def open_log(workspace: Workspace, stage: Stage, **more: Any) -> EventLog:
    """Begin the event log of a stage; `more` goes into its first line.

    Raises DataError if a file that the stage reads does not match dvc.lock, or if the event log
    cannot be created.
    """
    return EventLog(event_log.folder(), **of_stage(workspace, stage), **more)


def of_stage(workspace: Workspace, stage: Stage) -> dict[str, Any]:
    """Return the first line of the stage's event log.

    Raises DataError if a file that it reads does not match dvc.lock.
    """
    pipeline = workspace.pipeline
    deps = workspace.hashes(stage.deps)
    integrity.check_inputs(deps, pipeline, workspace.recorded)
    own_params = workspace.params(stage)
    read = dict.fromkeys(dep for each in pipeline.stages.values() for dep in each.deps)
    return {
        "stage": stage.name,
        "source": workspace.program(stage) or "dvc.yaml",
        "key": workspace.key(),
        "experiment": identity.dvc_experiment(),
        "sweep": os.environ.get("RETRACE_SWEEP"),
        "commit": git.head_commit(),
        "user": machine.user(),
        "machine": machine.processor(),
        "params": workspace.params(*pipeline.stages.values()),
        "own_params": own_params,
        "deps": deps,
        "metrics_prefix": stage.metrics_prefix,
        "inputs": identity.inputs(stage.name, stage.commands, own_params, deps),
        "makers": {path: maker for path in read if (maker := pipeline.maker(path))},
        "stages": list(pipeline.stages),
        "later": _later(stage, workspace),
        "data": [dep for dep in deps if pipeline.is_data(dep)],
        "models": [artifact.path for artifact in pipeline.artifacts if artifact.type == "model"],
        **grouping.of(workspace, settings.load(files.root())),
    }


def outputs(log: EventLog, workspace: Workspace, stage: Stage) -> dict[str, dict[str, str]]:
    """Return the hashes of what a finished stage has made, for the end of its event log.

    The files in those outputs that are folders are included.
    """
    root = workspace.root
    outs = [out.path for out in stage.outs if (root / out.path).exists()]
    folders = [root / out for out in outs if (root / out).is_dir()]
    inside = [file for each in folders for file in sorted(dvc_ignore.unignored(each))]
    names = [file.relative_to(root).as_posix() for file in inside]
    return {"outs": _hashes(log, root, outs), "files": _hashes(log, root, names)}


def _hashes(log: EventLog, root: Path, paths: Iterable[str]) -> dict[str, str]:
    hashes: dict[str, str] = {}
    for path in paths:
        with log.recording(f"hash of {path}"):
            hashes[path] = hashing.md5(root / path)
    return hashes


def attach_changes(log: EventLog, workspace: Workspace) -> None:
    """Log how code, parameters and dvc.yaml differ from the last commit."""
    if log.header["commit"] is None:
        refusal = git_process.refusal(workspace.root)
        if refusal:
            log.lost("commit", "code.patch", why=str(refusal))
            return
        if git_process.is_outside(workspace.root):
            return
        log.lost("commit", why=NO_COMMIT)
    try:
        modules = git_patch.changed_submodules(workspace.root)
        changes = workspace.changes()
    except (OSError, RetraceError) as error:
        log.lost("code.patch", why=str(git_process.refusal(workspace.root) or error))
        return
    if modules:
        log.lost(*(f"changes in the submodule {name}" for name in modules), why=SUBMODULE)
    if changes:
        log.attach("code.patch", changes)


def _later(stage: Stage, workspace: Workspace) -> dict[str, Any]:
    """Return what determines the result of each stage after this one, as far as it is known.

    Together with the outputs of earlier stages, that is all. If MLflow has a run with exactly
    these inputs, DVC will not run the stage again.
    """
    pipeline = workspace.pipeline
    names = list(pipeline.stages)
    later = [pipeline.stages[name] for name in names[names.index(stage.name) + 1 :]]
    return {
        each.name: {
            "commands": each.commands,
            "params": workspace.params(each),
            "deps": dict.fromkeys(each.deps)
            | workspace.hashes(dep for dep in each.deps if pipeline.maker(dep) is None),
        }
        for each in later
    }
