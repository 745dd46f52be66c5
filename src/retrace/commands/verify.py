"""`retrace verify`: whether a run can be made again, and how the second time compares to the first.

Equal code, parameters and data on an equal machine give equal bytes. Another kind of device adds in another order:
there, what is downloaded and preprocessed must still be equal, and what is measured equal within a tolerance.
"""

import json
import math
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from retrace import graph, hashing, identity, params, paths
from retrace.errors import RetraceError
from retrace.provenance import rebuild, verdicts
from retrace.provenance import record as record_of
from retrace.provenance.places import PATCH
from retrace.provenance.rebuild import Origin
from retrace.provenance.record import Record
from retrace.provenance.verdicts import OutputDiff
from retrace.tracking import links, store

CODE = ("src/", "stages/")
WIDTH = 120  # of the table where there is no terminal


@store.answering()
def check(run_id: str, tolerance: float, *, as_json: bool = False) -> int:
    """Print how the run whose id begins so, made again, compares to its record; 0 if it is equal, else 1.

    `tolerance`, absolute, is for scores on another kind of device, and for nothing else. Raises RetraceError where
    the run is not known or cannot be made again.
    """
    if not 0 <= tolerance < math.inf:
        raise RetraceError(f"tolerance is {tolerance}; should be a number from 0 on, such as 0.005")
    client = store.client()
    record = record_of.find_record(run_id)
    with rebuild.temporary_repository() as tree:
        origin = restore(client, record, tree)
        out = sys.stderr if as_json else sys.stdout
        print(f"{_name(record)}: {', '.join(record.stages)} from {origin}, in {tree}", file=out)
        rebuild.repro(tree, record.stages, sys.stderr if as_json else None)
        told = rebuild.event_logs(tree)
        stages = graph.stages(params.read(tree / paths.PARAMS), tree)
        then = record_of.recorded_facts(client, record, graph.makers(stages))
        now = record_of.reproduced_facts(record, stages, told, tree)
    devices = record_of.device_change(record, told, verdicts.EXACT)
    rows = verdicts.compare_facts(then, now, tolerance if devices else None)
    verified, said = all(row.is_equal for row in rows), sentence(rows, tolerance, devices)
    if as_json:
        facts = [asdict(row) | {"equal": row.is_equal} for row in rows]
        print(json.dumps({"run": record.run.info.run_id, "verified": verified, "said": said, "rows": facts}, indent=2))
    else:
        Console(width=None if sys.stdout.isatty() else WIDTH).print(table(rows))
        print(f"{_name(record)}: {said}")
        if not verified:
            print(f"`retrace trace {record.run.info.run_id[:8]}` says how it was made, and where what it made is")
    return 0 if verified else 1


def table(rows: list[OutputDiff]) -> Table:
    """The rows, for a terminal."""
    shown = Table("stage", "what", "then", "now", "verdict", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for row in rows:
        verdict = f"{row.verdict} ({row.where})" if row.where else row.verdict
        cells = (row.stage, row.what, row.then or "-", row.now or "-", verdict)
        shown.add_row(*map(escape, cells), style="" if row.is_equal else "bold red")
    return shown


def sentence(rows: list[OutputDiff], tolerance: float, devices: tuple[str, str] | None) -> str:
    """What the rows come to; `devices` are the kinds then and now, if they are two."""
    unequal = [row.what for row in rows if not row.is_equal]
    asked = "all were to be the same"
    if devices:
        asked = f"made on {devices[0]}, made again on {devices[1]}: last scores were to be within {tolerance:g}"
        asked += f", and {' and '.join(verdicts.EXACT)} the same"
    if unequal:
        return f"{len(unequal)} of {len(rows)} outputs and metrics are not as they were: {', '.join(unequal)} ({asked})"
    return f"verified: {len(rows)} outputs and metrics are as they were ({asked})"


def restore(client: store.MlflowClient, record: Record, tree: Path) -> Origin:
    """`tree` holds the code, the parameters and the images of the run, to the byte; from where, is returned.

    Raises RetraceError where nothing that is left of them has the experiment's key.
    """
    failed: list[str] = []
    for origin in dict.fromkeys(_origins(client, record)):
        try:
            rebuild.check_out_origin(tree, origin)
            values = params.read(tree / paths.PARAMS)
            read = links.hashes(record.made_by["download"], "deps") if "download" in record.made_by else {}
            if values.get("dataset") == "image_folder" and str(paths.IMAGES) in read:
                rebuild.restore_images(tree, read[str(paths.IMAGES)])
        except RetraceError as error:
            failed.append(str(error))
            continue
        if identity.key(values, tree) == record.parent.data.tags["retrace.key"]:
            return origin
        others = ", ".join(_others(record, values, tree)) or "a file that no stage depends on"
        kept = "what was neither committed nor kept with the run cannot be rebuilt"
        failed.append(f"{origin} is not what it ran, by {others}; {kept}")
    nowhere = "has no commit, since it ran outside git; nothing says what its code was"
    raise RetraceError(f"{_name(record)}: {failed[0] if failed else nowhere}")


def _origins(client: store.MlflowClient, record: Record) -> Iterator[Origin]:
    """Where the code may be had, the likeliest place first."""
    for run in record.own():
        if commit := run.data.tags.get("mlflow.source.git.commit"):
            yield Origin(commit, _patch(client, run.info.run_id))
    for tag in ("dvc.exp_rev", "mlflow.source.git.commit"):
        if commit := record.parent.data.tags.get(tag):
            yield Origin(commit)


def _patch(client: store.MlflowClient, run: str) -> bytes:
    if PATCH not in {file.path for file in client.list_artifacts(run)}:
        return b""
    with tempfile.TemporaryDirectory() as folder:
        return Path(client.download_artifacts(run, PATCH, folder)).read_bytes()


def _others(record: Record, values: params.Values, tree: Path) -> list[str]:
    """The code files and the parameters that are others in `tree` than the experiment's own runs say."""
    said = {path: md5 for run in record.own() for path, md5 in links.hashes(run, "deps").items()}
    files = [
        path
        for path, md5 in sorted(said.items())
        if path.startswith(CODE) and not ((tree / path).exists() and hashing.md5(tree / path) == md5)
    ]
    chosen = sorted(record.parent.data.params.items())
    return files + [f"{paths.PARAMS} ({key})" for key, value in chosen if str(_at(values, key)) != value]


def _at(values: Any, key: str) -> Any:
    for part in key.split("."):
        values = values.get(part) if isinstance(values, dict) else None
    return values


def _name(record: Record) -> str:
    return f"run {record.run.info.run_id[:8]}"
