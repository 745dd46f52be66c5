"""`retrace verify`: reproduce a run and compare every output and metric with its record.

Equal code, parameters and data on an equal machine give equal bytes. On a different kind of device,
floating-point sums are computed in a different order, so results differ in the last digits. There,
only the stages of the setting `verify.exact` must give equal files, and metrics must be within a
tolerance.
"""

from __future__ import annotations

import json
import math
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from retrace.cli import arguments
from retrace.errors import RetraceError
from retrace.provenance import diff
from retrace.system import files
from retrace.system.text import count

if TYPE_CHECKING:
    from rich.table import Table

    from retrace.provenance.diff import OutputDiff
    from retrace.provenance.record import Record

GROUP = "trust"
SUMMARY = (
    "reproduce a run and compare every bit, or hash all files: the same code, parameters and raw "
    "data, in a separate folder without any cache; exit code 1 if something differs"
)
EXAMPLES = (
    "retrace verify 4f0c2d                    a run, by the first digits of its id",
    "retrace verify 4f0c2d --tolerance 0.01   if it ran on another kind of device",
    "retrace verify --cache                   hash all files that dvc.lock lists",
)
WIDTH = 120  # of the table, if stdout is not a terminal


def add_arguments(parser: ArgumentParser) -> None:
    arguments.add_json(parser)
    target = parser.add_mutually_exclusive_group(required=True)
    text = "id of an MLflow run, or its first digits"
    target.add_argument("run", nargs="?", metavar="RUN_ID", help=text)
    text = "hash every file that dvc.lock lists, in the workspace and in DVC's cache"
    target.add_argument("--cache", action="store_true", help=text)
    text = "absolute tolerance of metrics on another kind of device (default: %(default)s)"
    parser.add_argument("--tolerance", type=float, default=0.005, help=text)


def run(args: Namespace) -> int:
    if args.cache:
        from retrace.cli import verify_cache

        return verify_cache.check(as_json=args.json)
    return check(args.run, args.tolerance, as_json=args.json)


def check(run_id: str, tolerance: float, *, as_json: bool = False) -> int:
    """Reproduce the run whose id begins with `run_id`; return 0 if all is equal, else 1.

    Print the comparison. `tolerance` is absolute, and only for metrics on another kind of device.
    Raises RetraceError if the run is unknown or cannot be reproduced.
    """
    from retrace import settings
    from retrace.pipeline import loading
    from retrace.provenance import record as records
    from retrace.provenance import reproduce, restore
    from retrace.store import backend

    if not 0 <= tolerance < math.inf:
        raise RetraceError(f"--tolerance is {tolerance}; should be 0 or greater, such as 0.005")
    configured = settings.load(files.root()).verify
    with backend.mlflow_errors():
        client = backend.client()
        record = records.find_record(run_id)
        for what, why in record.lost().items():
            print(f"{record.name}: not recorded: {what}: {why}", file=sys.stderr)
        with reproduce.temporary_repository() as tree:
            origin = restore.restore(client, record, tree)
            out = sys.stderr if as_json else None
            print(f"{record.name}: {', '.join(record.stages)} from {origin}, in {tree}", file=out)
            reproduce.repro(tree, record.stages, out, is_wrapped=record.is_wrapped)
            logs = reproduce.event_logs(tree)
            pipeline = loading.load(tree)
            ignore = (*configured.ignore, *records.timed_files(pipeline, tree, configured.ignore))
            then = records.recorded_facts(client, record, pipeline, ignore)
            now = records.reproduced_facts(record, pipeline, logs, tree, ignore)
    devices = records.device_change(record, logs, configured.exact)
    rows = diff.compare_facts(then, now, tolerance if devices else None, configured.exact)
    verdict = sentence(rows, tolerance, devices, configured.exact)
    left_out = [*ignore[len(configured.ignore) :], *records.left_out(record, configured.ignore)]
    if as_json:
        print(json.dumps(_document(record, rows, verdict, left_out), indent=2))
    else:
        _print(record, rows, verdict, left_out)
    return 0 if _is_verified(rows) else 1


def _is_verified(rows: Sequence[OutputDiff]) -> bool:
    return all(row.is_equal for row in rows)


def _document(
    record: Record, rows: list[OutputDiff], verdict: str, left_out: list[str]
) -> dict[str, object]:
    return {
        "run": record.run.info.run_id,
        "lost": record.lost(),
        "verified": _is_verified(rows),
        "verdict": verdict,
        "left_out": left_out,
        "rows": [asdict(row) | {"equal": row.is_equal} for row in rows],
    }


def _print(record: Record, rows: list[OutputDiff], verdict: str, left_out: list[str]) -> None:
    from rich.console import Console

    Console(width=None if sys.stdout.isatty() else WIDTH).print(table(rows))
    if left_out:
        print(f"not compared: {', '.join(left_out)} (times, and the setting verify.ignore)")
    print(f"{record.name}: {verdict}")
    if not all(row.is_equal for row in rows):
        run_id = record.run.info.run_id
        print(f"`retrace trace {run_id[:8]}` shows how it was produced, and where its outputs are")


def table(rows: list[OutputDiff]) -> Table:
    """Return the rows as a table for the terminal."""
    from rich.markup import escape
    from rich.table import Table

    top = ("stage", "what", "then", "now", "verdict")
    table = Table(*top, box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for row in rows:
        verdict = f"{row.verdict} ({row.where})" if row.where else row.verdict
        cells = (row.stage, row.what, row.then or "-", row.now or "-", verdict)
        table.add_row(*map(escape, cells), style="" if row.is_equal else "bold red")
    return table


def sentence(
    rows: list[OutputDiff],
    tolerance: float,
    devices: tuple[str, str] | None,
    exact: Sequence[str] = (),
) -> str:
    """Summarize the rows; `devices` are the kinds then and now, if they differ."""
    differ = [row.what for row in rows if row.verdict == diff.DIFFERS]
    missing = [row.what for row in rows if row.verdict == diff.MISSING]
    rule = "all must be equal"
    if devices:
        rule = f"ran on {devices[0]}, reproduced on {devices[1]}: final metrics must be within "
        rule += f"{tolerance:g}"
        rule += f", and {' and '.join(exact)} equal" if exact else ""
    total = f"of {count(len(rows), 'output or metric', 'outputs and metrics')}"
    parts = [
        f"{len(names)} {total} {one if len(names) == 1 else several}: {', '.join(names)}"
        for names, one, several in (
            (differ, "differs", "differ"),
            (missing, "is missing then or now", "are missing then or now"),
        )
        if names
    ]
    if parts:
        return f"{'; '.join(parts)} ({rule})"
    equal = count(len(rows), "output or metric is", "outputs and metrics are")
    return f"verified: {equal} equal ({rule})"
