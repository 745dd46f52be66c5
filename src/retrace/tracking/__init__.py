"""A stage, watched: its journal is written here, and shown in MLflow by a process beside it.

The stage imports no MLflow, never waits for it while it works, and does not fail with it; at its end it waits for the
process beside it, as long as that gets on, and says in one line if MLflow lacks something. `retrace sync` mends that.

    stage -> journal (a file) -> follower (a process) -> upload -> runs, served, links (MLflow)
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from retrace import graph, lineage, params
from retrace.errors import Terminated
from retrace.journal import Journal
from retrace.tracking import follower


@contextmanager
def stage(name: str) -> Iterator[Journal]:
    """Yield the journal of stage `name`; afterwards MLflow has a run with all of it and a truthful status."""
    values = params.read()
    stages = graph.stages(values)
    record = Journal(
        folder(),
        stage=name,
        dataset=values["dataset"],
        key=lineage.key(values),
        folds=lineage.key(values | {"fold": None}) if values["folds"] > 1 else None,
        experiment=lineage.experiment(),
        commit=lineage.commit(),
        user=lineage.user(),
        machine=lineage.machine(),
        params=params.chosen(values),
        own_params=params.chosen(values, params.STAGES[name]),
        deps=_hashes(stages[name].deps),
        makers=graph.makers(stages),
        later=_later(name, stages, values),
    )
    beside = follower.start(record.path)
    try:
        if changes := lineage.changes():
            record.attach("code.patch", changes)
        yield record
        record.end("FINISHED", outs=_hashes(stages[name].outs), files=_hashes(_inside(stages[name].outs)))
    except (KeyboardInterrupt, Terminated):
        record.end("KILLED")
        raise
    except BaseException as error:
        record.end("FAILED", error=f"{type(error).__name__}: {error}")
        raise
    finally:
        beside.finish()


def folder() -> Path:
    """Where journals are."""
    return lineage.root() / ".retrace" / "journal"


def _hashes(files: Iterable[str]) -> dict[str, str]:
    return {file: lineage.md5(Path(file)) for file in files if Path(file).exists()}


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
