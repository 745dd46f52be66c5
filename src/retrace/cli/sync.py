"""`retrace sync`: upload what MLflow does not have, and close runs without a process."""

import json
import sys
from argparse import ArgumentParser, Namespace

from retrace.cli import arguments
from retrace.errors import RetraceError
from retrace.system.text import count

GROUP = "repair"
SUMMARY = (
    "upload everything that MLflow does not have yet: after an outage or a killed stage, and "
    "results from DVC's cache"
)
EXAMPLES = (
    "retrace sync            after a crash, an outage, `dvc exp run` from the cache",
    "retrace sync --json     the numbers, for a script",
)


def add_arguments(parser: ArgumentParser) -> None:
    arguments.add_json(parser)


def run(args: Namespace) -> None:
    sync(as_json=args.json)


def sync(*, as_json: bool = False) -> None:
    """Upload the event logs, close runs without a process, add DVC's experiments.

    Running it again changes nothing. Raises RetraceError if the store does not answer, or if an
    event log could not be uploaded.
    """
    from retrace import event_log
    from retrace.store import backend, experiments, runs, upload

    with backend.mlflow_errors():
        client = backend.client()
        uploaded = 0
        running: list[str] = []
        failed: list[str] = []
        for path in event_log.pending(event_log.folder()):
            if not event_log.is_over(path):
                running.append(path.stem)
                continue
            is_uploaded, reason = upload.try_finish(path)
            uploaded += is_uploaded
            failed += [reason] if reason else []
        closed = runs.close_abandoned(client)
        added = experiments.add_missing(client)
        backend.tidy(client.tracking_uri)
    counts = {"uploaded": uploaded, "closed": closed, "added": added}
    if as_json:
        print(json.dumps(counts | {"running": running, "failed": failed}, indent=2))
    else:
        for name in running:
            print(f"{name}: is still running")
        print(f"uploaded: {count(uploaded, 'event log')}; ", end="")
        print(f"closed: {count(closed, 'run')} without a process; ", end="")
        print(f"added or completed: {count(added, 'experiment')}")
        if any(counts.values()):
            print("`retrace ui` shows them")
    if failed:
        print(*failed, sep="\n", file=sys.stderr)
        n_failed = count(len(failed), "event log")
        raise RetraceError(f"{n_failed} could not be uploaded; run `retrace sync` again to retry")
