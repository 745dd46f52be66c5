"""Track a stage: its event log is written here and mirrored to MLflow by a background uploader.

The stage does not import MLflow, does not wait for it while it works, and does not fail if MLflow
does. At its end, a stage waits until MLflow has everything if it is the last of the pipeline, if it
failed, or if it ran in a temporary copy. If some data is still missing then, it prints one line,
and `retrace sync` uploads the data later.

    stage -> event log -> uploader, another process -> MLflow
"""

import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from retrace import event_log
from retrace.errors import DataError, RetraceError, Terminated
from retrace.pipeline.definition import Pipeline, Stage
from retrace.system import files, processes
from retrace.tracking.run import Run, Untracked

if TYPE_CHECKING:
    from retrace.pipeline.workspace import Workspace

EVENT_LOG = "RETRACE_EVENT_LOG"  # variable of a stage's processes: the path of its event log
NODE = "RETRACE_NODE"  # variable: which machine this is of those that compute a stage, from 0
RANKS = ("RANK", "LOCAL_RANK", "OMPI_COMM_WORLD_RANK", "PMI_RANK", "SLURM_PROCID")
ENDS_S = 30.0  # for another process of the same stage to end, for example after its DVC was killed

entered: list[Run] = []  # the runs of this process that have not ended, the innermost last


@contextmanager
def stage(name: str | None = None) -> Iterator[Run]:
    """Yield the run of the stage that DVC runs, for the code of the stage to log to.

    MLflow shows it as a run whose status says how the stage ended. Below `retrace dvc` and
    `retrace run`, it is their run, and they end it. Under torchrun, srun and mpirun, only rank 0
    logs. Where DVC runs no stage, or it cannot be tracked, one line of warning is printed and
    nothing is logged.

    With a `name`, the code is tracked as that stage, also without DVC. Raises DataError then,
    before there is a run, if an input does not match dvc.lock, or if another process runs this
    stage here.
    """
    with _run(name) as run:
        entered.append(run)
        try:
            yield run
        finally:
            entered.remove(run)


def current(name: str | None = None) -> Run | None:
    """Return the run of this very stage that a process above has opened, if any.

    It is the stage's own program, `retrace run`, or the shell of `retrace dvc`. A stage of another
    DVC, which the command of a stage starts, is not this stage.
    """
    path = os.environ.get(EVENT_LOG)
    if path:
        with suppress(FileNotFoundError):  # ended, and uploaded: this process outlives its stage
            run = Run.reopen(Path(path))
            is_named = name in (None, run.header["stage"])
            if is_named and processes.is_above(run.header["process"]):
                return run
    return None


def declared(workspace: "Workspace", name: str) -> Stage:
    """Return the stage of that name. Raises DataError if there is none."""
    stages = workspace.pipeline.stages
    if name not in stages:
        raise DataError(f"dvc.yaml: no stage {name}; should be one of {', '.join(stages)}")
    return stages[name]


def has_later_stage(name: str, pipeline: Pipeline) -> bool:
    """Return whether the pipeline has a later stage, whose end can wait for this stage's upload.

    DVC may not run it, as after `dvc repro NAME`. False in a temporary copy, which DVC deletes.
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


def is_first_rank() -> bool:
    """Return whether no launcher of several processes says that this is another rank than 0.

    A rank that DVC has itself is not the stage's: each rank runs a DVC of its own. Of several
    machines that compute a stage, only the first tracks anything.
    """
    if os.environ.get(NODE, "0") != "0":
        return False
    ranks = {name: os.environ.get(name, "0") for name in RANKS}
    if set(ranks.values()) == {"0"}:
        return True
    dvc = processes.dvc_above()
    inherited = processes.environment(dvc) if dvc else {}
    return all(value in ("0", inherited.get(name)) for name, value in ranks.items())


@contextmanager
def _run(name: str | None) -> Iterator[Run]:
    """Yield the run of this process's stage, by default of the one that DVC runs."""
    if entered and name in (None, entered[-1].header["stage"]):
        yield entered[-1]
        return
    with ExitStack() as stack:
        if not is_first_rank():
            run = Untracked()
        elif name is None and "DVC_STAGE" not in os.environ:
            run = _untracked("DVC does not run this program")
        elif above := current(name):
            run = above
        elif name:
            run = stack.enter_context(_opened(name))
        else:
            try:
                run = stack.enter_context(_opened(_name_of_dvc()))
            except (RetraceError, OSError) as error:
                run = _untracked(" ".join(str(error).split()))
        yield run


@contextmanager
def _opened(name: str) -> Iterator[Run]:
    """Yield the run of an event log that this process opens, and ends with what the stage made."""
    # Late, because other ranks, and stages below `retrace dvc`, need not read the pipeline.
    from retrace.pipeline.workspace import Workspace
    from retrace.tracking import header

    workspace = Workspace(files.repository(Path.cwd()))
    this = declared(workspace, name)
    with locked(name):
        run = Run(event_log.folder(), **header.of_stage(workspace, this))
        has_successor = has_later_stage(name, workspace.pipeline)
        with _uploaded(run, has_successor=has_successor), _ended(run, workspace, this):
            header.attach_changes(run, workspace)
            with _found_below(run):
                yield run


@contextmanager
def _uploaded(run: Run, *, has_successor: bool) -> Iterator[None]:
    """Mirror the run to MLflow while it lasts; at its end, wait unless a later stage can."""
    from retrace.tracking import uploader_client

    uploader = uploader_client.Uploader(run.path, has_successor=has_successor)
    error: BaseException | None = None
    try:
        yield
    except BaseException as raised:
        error = raised
        raise
    finally:
        if run.is_mine and has_successor and _is_success(error):
            uploader.detach()
        elif run.is_mine:
            uploader.wait()


@contextmanager
def _ended(run: Run, workspace: "Workspace", this: Stage) -> Iterator[None]:
    """End the run as its code ends."""
    try:
        yield
        _finish(run, workspace, this)
    except BaseException as error:
        if _is_success(error):
            _finish(run, workspace, this)
        elif isinstance(error, KeyboardInterrupt | Terminated):
            run.end("KILLED")
        else:
            run.end("FAILED", error=f"{type(error).__name__}: {error}")
        raise


def _is_success(error: BaseException | None) -> bool:
    return error is None or (isinstance(error, SystemExit) and not error.code)


def _finish(run: Run, workspace: "Workspace", this: Stage) -> None:
    """Log the stage's metrics files and plots, which it need not have logged itself; end its run.

    dvc.yaml is read again: DVCLive adds its plots to it.
    """
    from retrace.pipeline.workspace import Workspace
    from retrace.tracking import header, results

    if run.is_mine:
        latest = Workspace(workspace.root)
        with run.recording("results"):
            results.log(run, latest, latest.pipeline.stages.get(this.name, this))
        run.end("FINISHED", **header.outputs(run, workspace, this))


@contextmanager
def _found_below(run: Run) -> Iterator[None]:
    """Let `current` find the run, in the processes that the stage starts."""
    before = os.environ.get(EVENT_LOG)
    os.environ[EVENT_LOG] = str(run.path)
    try:
        yield
    finally:
        os.environ.pop(EVENT_LOG)
        if before is not None:
            os.environ[EVENT_LOG] = before


def _name_of_dvc() -> str:
    """Return the name of the stage that DVC runs. Raises DataError outside a repository."""
    from retrace.pipeline import loading

    root = loading.root(Path.cwd())
    dvc = processes.dvc_above()
    started_in = processes.folder(dvc) if dvc else root
    return loading.canonical(os.environ["DVC_STAGE"], started_in, root)


def _untracked(reason: str) -> Untracked:
    print(f"warning: not tracked: {reason}", file=sys.stderr, flush=True)
    return Untracked()
