"""Collect what `retrace trace --json` prints: runs by id and files by path, as plain values."""

from typing import Any

from retrace.provenance import locations
from retrace.provenance.locations import Output
from retrace.provenance.run_index import RunIndex
from retrace.store import backend, cached_stages, run_tags

Document = dict[str, Any]


def file_document(index: RunIndex, path: str, md5: str, maker: backend.Run) -> Document:
    """Return a file, the run `maker` that made it, and that run's inputs, back to the raw data."""
    runs: dict[str, Document] = {}
    left = [maker]
    while left:
        run = left.pop()
        if run.info.run_id in runs:
            continue
        reads = []
        for dep, digest in cached_stages.hashes(run, "deps").items():
            above = index.maker(dep, digest, run.data.tags.get("mlflow.parentRunId"))
            reads.append(
                {"path": dep, "md5": digest, "made_by": above.info.run_id if above else None}
            )
            left += [above] if above else []
        runs[run.info.run_id] = run_facts(run) | {"reads": reads}
    return {"path": path, "md5": md5, "made_by": maker.info.run_id, "runs": runs}


def run_document(index: RunIndex, run: backend.Run, into: str) -> Document:
    """Return a run, its stages' outputs, their locations, and commands to copy them to `into`."""
    stages = []
    commands: list[str] = []
    for stage in index.stages(run):
        parent = index.parent(stage)
        rev = parent.data.tags.get("dvc.exp_rev") if parent else None
        files = []
        for path, md5 in cached_stages.hashes(stage, "outs").items():
            copies = locations.locate(index.client, Output(path, md5, stage.info.run_id, rev), into)
            files.append({"path": path, "md5": md5, "locations": copies.names})
            commands += copies.commands
        stages.append(run_facts(stage) | {"files": files})
    return run_facts(run) | {"stages": stages, "commands": commands}


def run_facts(run: backend.Run) -> Document:
    """Return a run without its inputs and outputs."""
    tags = run.data.tags
    return {
        "run": run.info.run_id,
        "name": run.info.run_name,
        "stage": tags.get("retrace.stage"),
        "status": run.info.status,
        "experiment": run.info.run_id
        if "retrace.key" in tags
        else tags.get("mlflow.parentRunId", run.info.run_id),
        "commit": tags.get("mlflow.source.git.commit"),
        "lost": run_tags.lost(run),
        "began": run.info.start_time,
        "ended": run.info.end_time,
        "params": run.data.params,
        "metrics": run.data.metrics,
    }
