"""`retrace sync`: MLflow has what it missed, and nothing that is over seems to go on."""

import sys

from retrace import journal, tracking
from retrace.errors import RetraceError
from retrace.tracking import experiments, runs, store, upload


@store.answering()
def sync() -> None:
    """The journals are uploaded, runs without a process are closed, DVC's experiments have their rows. A second time
    it changes nothing. Raises RetraceError where the store is away, and where a journal could not be uploaded.
    """
    client = store.client()
    told, failed = 0, []
    for path in journal.pending(tracking.folder()):
        if not upload.is_over(path):
            print(f"{path.stem}: still runs")
            continue
        uploaded, why = upload.tried(path)
        told += uploaded
        failed += [why] if why else []
    closed, added = runs.close_abandoned(client), experiments.add_missing(client)
    store.tidy(client.tracking_uri)
    print(
        f"uploaded: {told} journals; closed: {closed} runs without a process; added or completed: {added} experiments"
    )
    if failed:
        print(*failed, sep="\n", file=sys.stderr)
        raise RetraceError(f"{len(failed)} journals are not in MLflow; they stay, and the next sync tries again")
