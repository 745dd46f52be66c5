"""The background uploader's program: mirror the event log of a running stage to MLflow.

    python -m retrace.tracking.uploader EVENT_LOG [--dvc IDENTITY] [--has-successor] ...

A byte on stdin, or its end, says that the stage is over; if other processes continue the stage, the
end of its event log says so. From then on, a stage that waits reads JSON lines from stdout:
`within`, the seconds that the next step may take; `lacking`, why data is missing in MLflow; and
`done`.

Importing MLflow takes seconds of CPU time, which the next stage could use. So a stage that is over
within `SHORT_S` leaves its event log to the uploader of the next stage.
"""

import json
import math
import os
import time
from argparse import ArgumentParser
from contextlib import suppress
from pathlib import Path
from threading import Event as Flag
from threading import Thread
from typing import Any

from retrace import event_log
from retrace.system import mlflow_environment, processes

FIRST_S, LAST_S = 0.5, 10.0  # polling interval for a growing event log: initial and maximum
WATCH_S = 1.0  # polling interval for the stage and its DVC process
GRACE_S = 2.0  # from SIGTERM to SIGKILL, for a stage whose DVC no longer exists
EARLIER_S = 120.0  # for the uploaders of earlier stages to finish
SHORT_S = 5.0  # duration of a short stage, at most
NEXT_S = 60.0  # for DVC to start the next stage


class Link:
    """The pipes to the stage."""

    def __init__(self, *, has_input: bool = True) -> None:
        self.over = Flag()
        if has_input:
            Thread(target=self._read, daemon=True).start()

    def is_over(self, timeout_s: float = 0.0) -> bool:
        """Wait for the end of the stage, at most `timeout_s`; return whether it is over."""
        return self.over.wait(timeout_s)

    def send(self, **message: float | str) -> bool:
        """Send a message; return whether the stage is there to read it."""
        try:
            os.write(1, json.dumps(message).encode() + b"\n")
        except OSError:
            return False
        return True

    def allow(self, seconds: float) -> None:
        """Announce how long the next step may take, if the stage is over: only then it reads."""
        if self.is_over():
            self.send(within=seconds)

    def _read(self) -> None:
        os.read(0, 1)
        self.over.set()


def mirror(path: Path, link: Link) -> None:
    """Upload the event log at `path` while it grows, and the rest when the stage is over.

    Tell the stage why data is missing in MLflow, if it is.
    """
    from retrace.store import upload
    from retrace.tracking import system_metrics

    with processes.try_lock(path, timeout_s=math.inf) as locked:
        if not locked:  # another uploader found the stage over and was faster
            return
        log = upload.Upload(path)
        start = event_log.read(path)[0]
        meter = system_metrics.Meter(
            start["process"]["pid"], is_wrapped=start.get("is_wrapped", False)
        )
        error: Exception | None = None
        has_waited = False
        pause_s = FIRST_S
        while not link.is_over() and not log.ended:
            try:
                log.advance(link.allow)
                error = None
                upload.leftovers(path.parent, stop=link.is_over)
            except Exception as failure:  # noqa: BLE001 - whatever MLflow or its server can raise
                error = failure
                has_waited = link.is_over()
            if not log.ended and not link.is_over(pause_s):
                pause_s = min(2 * pause_s, LAST_S)
                with suppress(OSError):  # a full disk
                    event_log.append(path, meter.event())
        if not log.ended:
            event_log.close(path)
            _upload_rest(log, error, link, has_waited=has_waited)


def _upload_rest(log: Any, error: Exception | None, link: Link, *, has_waited: bool) -> None:
    """Upload the rest of a closed event log. `error` is that of the last attempt, if it failed."""
    from retrace.store import upload

    if has_waited and not upload.is_local():  # to wait for that server once is enough
        link.send(lacking=_one_line(error))
        return
    answer_s = 4 * upload.ANSWER_S if error is None else upload.ANSWER_S
    link.send(within=max(answer_s, upload.LOCAL_S if upload.is_local() else 0.0))
    try:
        log.advance(link.allow)
    except Exception as failure:  # noqa: BLE001
        link.send(lacking=_one_line(failure))


def finish_earlier(folder: Path, key: str, link: Link) -> None:
    """Upload the event logs of earlier stages.

    A stage waits only for those of its own experiment. If none waits, all are uploaded: after
    `dvc repro train`, no later uploader takes what short stages have left.
    """
    from retrace.store import upload

    wait_for_earlier(folder, key, link)
    upload.leftovers(folder, stop=lambda: link.send(within=EARLIER_S))


def wait_for_earlier(folder: Path, key: str, link: Link) -> None:
    """Wait, if the stage does, until MLflow also has the earlier stages of the experiment.

    Those stages ended without waiting for their upload. If the uploader of one was killed or
    failed, its event log is uploaded here.
    """
    from retrace.store import upload

    deadline = time.monotonic() + EARLIER_S
    for path in filter(event_log.is_over, event_log.pending(folder)):
        while _key(path) == key and link.send(within=EARLIER_S):
            is_done, why = upload.try_finish(path, link.allow)
            if why is None and time.monotonic() > deadline:
                why = f"{path} is still being uploaded"
            if why:
                link.send(lacking=why)
            if is_done or why:
                break
            time.sleep(FIRST_S)


def _key(path: Path) -> str | None:
    """Return the experiment of an event log; None if it has been uploaded meanwhile."""
    with suppress(FileNotFoundError):
        return next((event.get("key") for event in event_log.read(path)), None)
    return None


def watch(stage: processes.Identity, dvc: processes.Identity | None, over: Flag) -> None:
    """Set `over` when the stage no longer exists; end the stage when its DVC no longer exists.

    DVC can no longer record its outputs then.
    """
    while processes.alive(stage):
        if dvc and not processes.alive(dvc):
            processes.end(stage, GRACE_S)
        time.sleep(WATCH_S)
    over.set()


def watch_end(path: Path, over: Flag) -> None:
    """Set `over` when the event log at `path` has an end, which another process writes."""
    position = 0
    with suppress(FileNotFoundError):  # it has been uploaded
        while not over.is_set():
            events, position = event_log.read_from(path, position)
            if event_log.end_of(events):
                break
            time.sleep(WATCH_S)
    over.set()


def _one_line(error: Exception | None) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__


def leaves_to_next(path: Path, key: str, dvc: processes.Identity, link: Link) -> bool:
    """Return whether to leave the event log at `path` to the next stage's uploader.

    That is so if the stage is short and does not wait for the upload, and DVC starts a later stage
    of the same experiment.
    """
    if not link.is_over(SHORT_S) or link.send(within=NEXT_S):
        return False
    deadline = time.monotonic() + NEXT_S
    while processes.alive(dvc) and time.monotonic() < deadline:
        others = [other for other in event_log.pending(path.parent) if other != path]
        if any(_key(other) == key and not event_log.is_over(other) for other in others):
            return True
        time.sleep(FIRST_S)
    return False


def run(path: Path, dvc: processes.Identity | None, link: Link, *, has_successor: bool) -> None:
    """Upload the event log at `path` until MLflow has all of it, and watch its stage."""
    try:
        start = event_log.read(path)[0]
    except FileNotFoundError:  # another uploader found that the stage was over and was faster
        return
    Thread(target=watch, args=(start["process"], dvc, link.over), daemon=True).start()
    key = start["key"]
    if has_successor and dvc and leaves_to_next(path, key, dvc, link):
        return
    mirror(path, link)
    if not path.exists():  # else the stage knows what is lacking
        finish_earlier(path.parent, key, link)


def main() -> None:
    parser = ArgumentParser()
    parser.add_argument("event_log", type=Path)
    parser.add_argument("--dvc", type=processes.from_line)
    parser.add_argument("--has-successor", action="store_true")
    parser.add_argument("--is-continued", action="store_true")
    args = parser.parse_args()
    mlflow_environment.enter()  # before MLflow is imported
    link = Link(has_input=not args.is_continued)
    if args.is_continued:
        Thread(target=watch_end, args=(args.event_log, link.over), daemon=True).start()
    try:
        run(args.event_log, args.dvc, link, has_successor=args.has_successor)
    except Exception as error:
        link.send(lacking=f"{type(error).__name__}: {_one_line(error)}")
        raise
    link.send(done=True)
    os._exit(0)  # skips interpreter shutdown: a second or two with MLflow and torch loaded


if __name__ == "__main__":
    main()
