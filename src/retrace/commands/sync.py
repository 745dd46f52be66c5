"""`retrace sync`: MLflow has what it missed, and nothing that is over seems to go on."""

import json
import sys

from retrace import journal, tracking
from retrace.errors import RetraceError
from retrace.tracking import experiments, runs, store, upload


@store.answering()
def sync(*, as_json: bool = False) -> None:
    """The journals are uploaded, runs without a process are closed, DVC's experiments have their rows. A second time
    it changes nothing. Raises RetraceError where the store is away, and where a journal could not be uploaded.
    """
    client = store.client()
    told, running, failed = 0, list[str](), list[str]()
    for path in journal.pending(tracking.folder()):
        if not journal.is_over(path):
            running.append(path.stem)
            continue
        uploaded, why = upload.tried(path)
        told += uploaded
        failed += [why] if why else []
    closed, added = runs.close_abandoned(client), experiments.add_missing(client)
    store.tidy(client.tracking_uri)
    if as_json:
        said = {"uploaded": told, "closed": closed, "added": added, "running": running, "failed": failed}
        print(json.dumps(said, indent=2))
    else:
        print(*(f"{name}: still runs" for name in running), sep="\n", end="\n" if running else "")
        print(
            f"uploaded: {told} journals; closed: {closed} runs without a process; "
            f"added or completed: {added} experiments"
        )
        if told or closed or added:
            print("`retrace ui` shows them")
    if failed:
        print(*failed, sep="\n", file=sys.stderr)
        raise RetraceError(f"{len(failed)} journals are not in MLflow; they stay, and the next sync tries again")
