"""Track a stage: its event log is written here and mirrored to MLflow by a background uploader.

The stage does not import MLflow, does not wait for it while it works, and does not fail if MLflow
does. Only the last stage of the pipeline waits, at its end, until MLflow has everything. If some
data is still missing then, it prints one line, and `retrace sync` uploads the data later.

    stage -> event_log -> uploader_client -> uploader, another process -> upload -> MLflow
"""

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from retrace import event_log
from retrace.errors import DataError, Terminated
from retrace.event_log import EventLog
from retrace.pipeline import git, graph, hashing, identity, integrity, overrides, params_file
from retrace.system import files, machine, processes
from retrace.tracking import uploader_client

EVENT_LOG = "RETRACE_EVENT_LOG"  # in the environment of a wrapped command: its event log's path
ENDS_S = 30.0  # for another process of the same stage to end, for example after its DVC was killed


@contextmanager
def stage(name: str) -> Iterator[EventLog]:
    """Yield the event log of stage `name`.

    MLflow shows it as a run whose status says how the stage ended. Raises DataError, before there
    is a run, if an input does not match dvc.lock, or if another process runs this stage here.
    Below `retrace dvc` or `retrace run`, it is their event log, and they end it.
    """
    above = current(name)
    if above:
        yield above
        return
    with locked(name):
        log = opened(name)
        has_successor = has_later_stage(name)
        uploader = uploader_client.Uploader(log.path, has_successor=has_successor)
        is_finished = False
        try:
            attach_changes(log)
            yield log
            log.end("FINISHED", **outputs(name))
            is_finished = True
        except (KeyboardInterrupt, Terminated):
            log.end("KILLED")
            raise
        except BaseException as error:
            log.end("FAILED", error=f"{type(error).__name__}: {error}")
            raise
        finally:
            if is_finished and has_successor:
                uploader.detach()
            else:
                uploader.wait()


def current(name: str) -> EventLog | None:
    """Return the event log that `retrace dvc` or `retrace run` keeps of this very stage, if any.

    A stage of another DVC, which the command of a stage starts, is not this stage.
    """
    path = os.environ.get(EVENT_LOG)
    if path:
        with suppress(FileNotFoundError):  # ended, and uploaded: this process outlives its stage
            log = EventLog.reopen(Path(path))
            if (log.header["stage"], log.header["process"]) == (name, processes.dvc_above()):
                return log
    return None


def opened(name: str, **more: Any) -> EventLog:
    """Begin the event log of a stage. `more` goes into its first line."""
    values = params_file.read()
    return EventLog(event_log.folder(), **_header(name, graph.stages(values), values), **more)


def attach_changes(log: EventLog) -> None:
    """Log how code and parameters differ from the last commit."""
    changes = git.uncommitted_patch()
    if changes:
        log.attach("code.patch", changes)


def outputs(name: str) -> dict[str, Any]:
    """Return the hashes of what a finished stage has made, for the end of its event log."""
    outs = graph.stages(params_file.read())[name].outs
    return {"outs": _hashes(outs), "files": _hashes(_files_in(outs))}


def has_later_stage(name: str) -> bool:
    """Return whether DVC will run a later stage in this folder.

    False in a temporary copy, which DVC deletes.
    """
    is_last = name == graph.names()[-1]
    return "DVC_STAGE" in os.environ and not is_last and Path.cwd() == files.root()


@contextmanager
def locked(name: str) -> Iterator[None]:
    """Lock the stage in this folder, because two processes would write the same files.

    Raises DataError if another process has the lock and does not end soon.
    """
    owner = Path(f".retrace/{name}.pid")
    owner.parent.mkdir(exist_ok=True)
    owner.touch()
    with processes.try_lock(owner, timeout_s=ENDS_S) as is_locked:
        if not is_locked:
            pid = owner.read_text(encoding="ascii")
            reason = f"already running in this folder (process {pid})"
            raise DataError(f"{name}: {reason}; wait until it ends, or stop it")
        owner.write_text(str(os.getpid()), encoding="ascii")
        yield


def _header(
    name: str, stages: Mapping[str, graph.Stage], values: params_file.Values
) -> dict[str, Any]:
    """Return the first line of the stage's event log."""
    makers = graph.makers(stages)
    deps = _hashes(stages[name].deps)
    own_params = overrides.select(values, stages[name].params)
    integrity.check_inputs(deps, makers)
    return {
        "stage": name,
        "dataset": values["dataset"],
        "key": identity.key(values),
        "folds": identity.key(values | {"fold": None}) if values["folds"] > 1 else None,
        "experiment": identity.dvc_experiment(),
        "sweep": os.environ.get("RETRACE_SWEEP"),
        "commit": git.head_commit(),
        "user": machine.user(),
        "machine": machine.processor(),
        "params": graph.used_params(values, stages),
        "own_params": own_params,
        "deps": deps,
        "inputs": identity.inputs(name, own_params, deps),
        "makers": makers,
        "later": _later(name, stages, values),
    }


def _hashes(files: Iterable[str]) -> dict[str, str]:
    return {file: hashing.md5(Path(file)) for file in files if Path(file).exists()}


def _files_in(outs: Iterable[str]) -> list[str]:
    """List the files in those outputs that are folders."""
    folders = [Path(out) for out in outs if Path(out).is_dir()]
    return [str(file) for out in folders for file in sorted(out.rglob("*")) if file.is_file()]


def _later(
    name: str, stages: Mapping[str, graph.Stage], values: params_file.Values
) -> dict[str, Any]:
    """Return the parameters and known inputs of each stage after this one.

    Together with the outputs of earlier stages, they determine its result. If MLflow has a run with
    exactly these inputs, DVC will not run the stage again.
    """
    makers = graph.makers(stages)
    names = list(stages)
    return {
        later: {
            "params": overrides.select(values, stages[later].params),
            "deps": dict.fromkeys(stages[later].deps)
            | _hashes(set(stages[later].deps) - makers.keys()),
        }
        for later in names[names.index(name) + 1 :]
    }
