"""What `retrace trace` tells, for scripts: runs by their ids, files by their paths, all of it plain values."""

from typing import Any

from retrace.provenance import places
from retrace.provenance.origins import Origins
from retrace.provenance.places import Made
from retrace.tracking import links, store

Document = dict[str, Any]


def of_file(origins: Origins, path: str, md5: str, maker: store.Run) -> Document:
    """The file, the run `maker` that made it, what that read, and so on, down to the raw data."""
    runs: dict[str, Document] = {}
    left = [maker]
    while left:
        run = left.pop()
        if run.info.run_id in runs:
            continue
        reads = []
        for dep, digest in links.hashes(run, "deps").items():
            above = origins.maker(dep, digest, run.data.tags.get("mlflow.parentRunId"))
            reads.append({"path": dep, "md5": digest, "made_by": above.info.run_id if above else None})
            left += [above] if above else []
        runs[run.info.run_id] = described(run) | {"reads": reads}
    return {"path": path, "md5": md5, "made_by": maker.info.run_id, "runs": runs}


def of_run(origins: Origins, run: store.Run, into: str) -> Document:
    """The run, what each of its stages made, where that is, and the commands that bring it back into `into`."""
    stages, commands = [], list[str]()
    for stage in origins.stages(run):
        parent = origins.parent(stage)
        rev = parent.data.tags.get("dvc.exp_rev") if parent else None
        files = []
        for path, md5 in links.hashes(stage, "outs").items():
            found = places.find(origins.client, Made(path, md5, stage.info.run_id, rev), into)
            files.append({"path": path, "md5": md5, "places": found.places})
            commands += found.commands
        stages.append(described(stage) | {"files": files})
    return described(run) | {"stages": stages, "commands": commands}


def described(run: store.Run) -> Document:
    """A run by itself."""
    tags = run.data.tags
    return {
        "run": run.info.run_id,
        "name": run.info.run_name,
        "stage": tags.get("retrace.stage"),
        "status": run.info.status,
        "experiment": run.info.run_id if "retrace.key" in tags else tags.get("mlflow.parentRunId", run.info.run_id),
        "commit": tags.get("mlflow.source.git.commit"),
        "began": run.info.start_time,
        "ended": run.info.end_time,
        "params": run.data.params,
        "metrics": run.data.metrics,
    }
