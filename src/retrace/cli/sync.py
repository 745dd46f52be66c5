"""`retrace sync`: upload what MLflow does not have, and close runs without a process."""

import json
import sys
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from retrace.cli import arguments, dvc
from retrace.errors import RetraceError
from retrace.system.text import count

INTERVAL_S = 0.5  # between two updates of the progress
FEW = 20  # commits that take no time
MAX_LINES = 20  # about commits that cannot be read
UPLOADER_S = 120.0  # for a background uploader to finish
GROUP = "repair"
SUMMARY = (
    "upload everything that MLflow does not have yet: after an outage or a killed stage, and "
    "what dvc.lock and metrics files record of the workspace, DVC's experiments and commits"
)
EXAMPLES = (
    "retrace sync                 after a crash, an outage, a cached `dvc exp run`",
    "retrace sync --all-commits   the whole history, from dvc.lock",
    "retrace sync --json          the numbers, for a script",
)


def add_arguments(parser: ArgumentParser) -> None:
    arguments.add_json(parser)
    text = "also add each commit of all branches and tags that has a dvc.lock"
    parser.add_argument("--all-commits", action="store_true", help=text)


def run(args: Namespace) -> None:
    sync(as_json=args.json, all_commits=args.all_commits)


def sync(*, as_json: bool = False, all_commits: bool = False) -> None:
    """Upload the event logs, close runs without a process, add what dvc.lock files record.

    Running it again changes nothing. Raises RetraceError if the store does not answer, or if an
    event log could not be uploaded.
    """
    from retrace.pipeline import git_process
    from retrace.store import backend, experiments, runs

    dvc.exclude(Path())
    with backend.mlflow_errors():
        client = backend.client()
        uploaded, running, failed = _upload()
        closed = runs.close_abandoned(client)
        added = experiments.add_missing(client, all_commits=all_commits, progress=_progress())
        backend.tidy(client.tracking_uri)
    counts = {"uploaded": uploaded, "closed": closed, "added": added.n}
    refusal = git_process.refusal()
    skipped = [f"commits and DVC's experiments: {refusal}"] if refusal else []
    skipped += added.skipped
    lists = {"running": running, "failed": failed, "skipped": skipped}
    if as_json:
        print(json.dumps(counts | lists, indent=2))
    else:
        _print(counts, running)
    _warn(skipped)
    if failed:
        print(*failed, sep="\n", file=sys.stderr)
        n_failed = count(len(failed), "event log")
        raise RetraceError(f"{n_failed} could not be uploaded; run `retrace sync` again to retry")


def _upload() -> tuple[int, list[str], list[str]]:
    """Upload the event logs of ended stages.

    Return how many, the names of running stages, and why others could not be uploaded.
    """
    from retrace import event_log
    from retrace.store import upload

    n_uploaded = 0
    running: list[str] = []
    failed: list[str] = []
    for path in event_log.pending(event_log.folder()):
        if not event_log.is_over(path):
            running.append(path.stem)
            continue
        # A background uploader may be at it: what it has not created yet would be added twice.
        is_uploaded, reason = upload.try_finish(path, wait_s=UPLOADER_S)
        n_uploaded += is_uploaded
        failed += [reason] if reason else []
    return n_uploaded, running, failed


def _print(counts: Mapping[str, int], running: Iterable[str]) -> None:
    for name in running:
        print(f"{name}: is still running")
    print(f"uploaded: {count(counts['uploaded'], 'event log')}; ", end="")
    print(f"closed: {count(counts['closed'], 'run')} without a process; ", end="")
    print(f"added or completed: {count(counts['added'], 'experiment')}")
    if any(counts.values()):
        print("`retrace ui` shows them")


def _warn(skipped: list[str]) -> None:
    """Print what could not be read."""
    for line in skipped[:MAX_LINES]:
        print(f"skipped {line}", file=sys.stderr)
    if len(skipped) > MAX_LINES:
        more = f"skipped {len(skipped) - MAX_LINES} more; `retrace sync --json` lists all"
        print(more, file=sys.stderr)


def _progress() -> Callable[[str, int, int], None]:
    """Return a function that shows how much is done, in one line, if a person looks."""
    shown = time.monotonic()

    def show(what: str, n: int, n_all: int) -> None:
        nonlocal shown
        is_time = n == n_all or time.monotonic() - shown > INTERVAL_S
        if is_time and n_all > FEW and sys.stderr.isatty():
            shown = time.monotonic()
            end = "\n" if n == n_all else ""
            print(f"\r{what}: {n:,} of {n_all:,}", end=end, file=sys.stderr, flush=True)

    return show
