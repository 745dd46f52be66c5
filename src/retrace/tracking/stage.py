"""Track a stage: its event log is written here and mirrored to MLflow by a background uploader.

The stage does not import MLflow, does not wait for it while it works, and does not fail if MLflow
does. Only the last stage of the pipeline waits, at its end, until MLflow has everything. If some
data is still missing then, it prints one line, and `retrace sync` uploads the data later.

    stage -> event_log -> uploader_client -> uploader, another process -> upload -> MLflow
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from retrace.errors import DataError, Terminated
from retrace.event_log import EventLog
from retrace.pipeline.definition import Pipeline
from retrace.pipeline.workspace import Workspace
from retrace.system import files, processes
from retrace.tracking import header, uploader_client

EVENT_LOG = "RETRACE_EVENT_LOG"  # variable of a wrapped command: the path of its event log
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
    workspace = Workspace(files.repository(Path.cwd()))
    this = workspace.pipeline.stages[name]
    with locked(name):
        log = header.open_log(workspace, this)
        has_successor = has_later_stage(name, workspace.pipeline)
        uploader = uploader_client.Uploader(log.path, has_successor=has_successor)
        is_finished = False
        try:
            header.attach_changes(log, workspace)
            yield log
            log.end("FINISHED", **header.outputs(workspace, this))
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


def has_later_stage(name: str, pipeline: Pipeline) -> bool:
    """Return whether DVC will run a later stage in this folder.

    False in a temporary copy, which DVC deletes.
    """
    is_last = name == list(pipeline.stages)[-1]
    is_main = files.repository(Path.cwd()) == files.root()
    return "DVC_STAGE" in os.environ and not is_last and is_main


@contextmanager
def locked(name: str) -> Iterator[None]:
    """Lock the stage in this folder, because two processes would write the same files.

    Raises DataError if another process has the lock and does not end soon.
    """
    owner = files.repository(Path.cwd()) / ".retrace" / f"{files.file_name(name)}.pid"
    owner.parent.mkdir(exist_ok=True)
    owner.touch()
    with processes.try_lock(owner, timeout_s=ENDS_S) as is_locked:
        if not is_locked:
            pid = owner.read_text(encoding="ascii")
            reason = f"already running in this folder (process {pid})"
            raise DataError(f"{name}: {reason}; wait until it ends, or stop it")
        owner.write_text(str(os.getpid()), encoding="ascii")
        yield
