"""A stage, watched: its journal is written here, and shown in MLflow by a process beside it.

The stage imports no MLflow, never waits for it while it works, and does not fail with it; at its end it waits for the
process beside it, as long as that gets on, and says in one line if MLflow lacks something. `retrace sync` mends that.
Where DVC has stages after it, those wait in its place, unless there is a model, whose packaging takes both cores.

    stage -> journal (a file) -> follower (a process) -> upload -> runs, served, links (MLflow)
"""

import gc
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from retrace import git, graph, hashing, identity, integrity, lineage, params, paths, processes
from retrace.errors import DataError, Terminated
from retrace.journal import Journal
from retrace.tracking import follower
from retrace.tracking.follower import Follower

ENDS_S = 30.0  # in which a stage is over that was told to end


def start() -> Follower:
    """The process beside a stage, for `stage`: started before the stage's own imports, it imports beside them.

    Until `stage`, Python collects no garbage: of imports there is none, and looking for it takes a fifth of their time.
    """
    gc.disable()
    return follower.start()


@contextmanager
def stage(name: str, beside: Follower | None = None) -> Iterator[Journal]:
    """Yield the journal of stage `name`; afterwards MLflow has a run with all of it and a truthful status.

    Raises DataError, before there is a run, where what the stage reads is not what dvc.lock says, and where another
    process is at the same stage here.
    """
    gc.freeze()  # what was imported, which the collector would go through again and again
    gc.enable()
    values = params.read()
    stages = graph.stages(values)
    with _only(name):
        record = Journal(folder(), **_header(name, stages, values))
        beside = beside or start()
        beside.follow(record.path)
        others_wait = False
        try:
            if changes := git.uncommitted_patch():
                record.attach("code.patch", changes)
            yield record
            record.end("FINISHED", outs=_hashes(stages[name].outs), files=_hashes(_inside(stages[name].outs)))
            others_wait = not record.has_model and _has_later(name, stages) and beside.runs_all(stages)
        except (KeyboardInterrupt, Terminated):
            record.end("KILLED")
            raise
        except BaseException as error:
            record.end("FAILED", error=f"{type(error).__name__}: {error}")
            raise
        finally:
            beside.leave() if others_wait else beside.finish()


def _has_later(name: str, stages: Mapping[str, graph.Stage]) -> bool:
    """Whether the graph has stages after it, here and not in a folder that DVC deletes."""
    return name != list(stages)[-1] and Path.cwd() == paths.root()


@contextmanager
def _only(name: str) -> Iterator[None]:
    """No other process is at stage `name` in this folder, since two would write the same files. One that is about to
    end, as when its DVC was killed, is waited for. Raises DataError where one goes on.
    """
    lock = Path(f".retrace/{name}.lock")
    lock.parent.mkdir(exist_ok=True)
    lock.touch()
    with processes.alone(lock, within=ENDS_S) as free:
        if not free:
            who = lock.read_text(encoding="ascii") or "another process"
            raise DataError(f"{name}: {who} is at it in this folder; wait until it ends, or end it")
        lock.write_text(f"process {os.getpid()}", encoding="ascii")
        yield


def _header(name: str, stages: Mapping[str, graph.Stage], values: params.Values) -> dict[str, Any]:
    """What the first line of a journal says."""
    makers, deps = graph.makers(stages), _hashes(stages[name].deps)
    own_params = params.chosen(values, params.STAGES[name])
    integrity.check_inputs(deps, makers)
    return {
        "stage": name,
        "dataset": values["dataset"],
        "key": identity.key(values),
        "folds": identity.key(values | {"fold": None}) if values["folds"] > 1 else None,
        "experiment": identity.dvc_experiment(),
        "sweep": os.environ.get("RETRACE_SWEEP"),
        "commit": git.head_commit(),
        "user": lineage.user(),
        "machine": lineage.machine(),
        "params": params.chosen(values),
        "own_params": own_params,
        "deps": deps,
        "inputs": identity.inputs(name, own_params, deps),
        "makers": makers,
        "later": _later(name, stages, values),
    }


def folder() -> Path:
    """Where journals are."""
    return paths.root() / ".retrace" / "journal"


def _hashes(files: Iterable[str]) -> dict[str, str]:
    return {file: hashing.md5(Path(file)) for file in files if Path(file).exists()}


def _inside(outs: Iterable[str]) -> list[str]:
    """The files in those of the outputs that are folders."""
    return [str(file) for out in outs if Path(out).is_dir() for file in sorted(Path(out).rglob("*")) if file.is_file()]


def _later(name: str, stages: Mapping[str, graph.Stage], values: params.Values) -> dict[str, Any]:
    """Of each stage after this one what decides, beside the outputs of other stages, what it makes: MLflow may know a
    run that had just this, so that DVC will not run it again.
    """
    makers, names = graph.makers(stages), list(stages)
    return {
        later: {
            "params": params.chosen(values, params.STAGES[later]),
            "deps": dict.fromkeys(stages[later].deps) | _hashes(set(stages[later].deps) - makers.keys()),
        }
        for later in names[names.index(name) + 1 :]
    }
