"""Upload an event log to MLflow, as it grows or at once. Uploading it again changes nothing.

Runs are found by their tags before they are created; all entries have the times of the event log.
"""

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory

from mlflow import MlflowClient
from mlflow.entities import Metric

from retrace import event_log
from retrace.event_log import Event
from retrace.pipeline import hashing
from retrace.store import (
    adoption,
    backend,
    cached_stages,
    datasets,
    entries,
    groups,
    models,
    names,
    run_tags,
)
from retrace.store import runs as runs_of
from retrace.system import files, mlflow_environment, processes
from retrace.system.redaction import redacted

ANSWER_S = float(mlflow_environment.ANSWER_S)
LOCAL_S = 120.0  # for a local database, in case it is busy
BYTES_PER_S = 1e6  # of the slowest connection to a server
STORED_PER_S = 1e7  # of the slowest artifact store, which a server waits for
NO_COPY = "its copy is missing or damaged"
LINEAGE = "retrace/lineage.json"  # artifact with the hashes of all files that a stage used

Announce = Callable[[float], None]


class Upload:
    """The upload of one event log. `advance` may fail at any point, and is then called again."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.position = 0
        self.start: Event = {}
        self.runs: runs_of.Pair | None = None
        self.headline: dict[str, Event] = {}
        self.lost: dict[str, str] = {}  # what could not be recorded, and why
        self.refused: Exception | None = None
        self.ended = False

    def advance(self, announce: Announce = lambda _: None) -> None:
        """Upload the event log so far; once its end is uploaded, it is no longer pending.

        `announce` is called with the seconds that the next step may take.
        """
        if self.ended:
            return
        client = backend.client()
        announce(4 * ANSWER_S + self._local)  # the server has answered
        events, position = event_log.read_from(self.path, self.position)
        if self.runs is None:
            self.start = self.start or events[0]
            self._begin(client)
        assert self.runs is not None  # noqa: S101 - set by _begin
        _log_metrics(client, self.runs, events)
        for event in events:
            self._log(client, self.runs, event, announce)
        if self.refused:
            refused = self.refused
            self.refused = None
            raise refused
        self.position = position
        if event_log.end_of(events):
            self.ended = True
            event_log.archive(self.path)
            backend.tidy(client.tracking_uri)

    def _begin(self, client: MlflowClient) -> None:
        runs = runs_of.pair(client, self.start)
        entries.log_params(client, runs.parent, self.start["params"])
        entries.log_params(client, runs.child, self.start["own_params"])
        datasets.log(client, runs, self.start)
        self.runs = runs

    def _log(
        self, client: MlflowClient, runs: runs_of.Pair, event: Event, announce: Announce
    ) -> None:
        match event["kind"]:
            case "tags":
                entries.log_tags(client, runs.child, event["values"])
            case "headline":
                self.headline |= {
                    name: {**event, "value": value} for name, value in event["values"].items()
                }
                metrics = {name: entry["value"] for name, entry in self.headline.items()}
                entries.log_tags(client, runs.child, cached_stages.summary_tags(metrics))
            case "artifact" if (copy := event_log.copy_of(self.path, event["path"])).exists():
                n_bytes = copy.stat().st_size
                announce(ANSWER_S + n_bytes / BYTES_PER_S + self._local)
                with backend.request_timeout(ANSWER_S + n_bytes / STORED_PER_S):
                    for run in runs.targets(event):
                        _log_artifact(client, run, copy, event["path"])
            case "model" if event_log.copy_of(self.path, event["weights"]).exists():
                copy = event_log.copy_of(self.path, event["weights"])
                self._log_model(client, runs, event, copy, announce)
            case "model_files" if copy := event_log.model_copy(self.path, event):
                self._log_model(client, runs, event, copy, announce)
            case "lost" | "artifact" | "model" | "model_files":
                self.lost = {**_lost(event), **self.lost}
                entries.log_tags(client, runs.child, run_tags.of_lost(self.lost))
            case "run":
                announce(4 * ANSWER_S + self._local)
                copies = event_log.copies(self.path) / event_log.OTHER_RUNS
                adoption.copy(client, runs, self.start, event, copies / event["values"]["id"])
            case "end":
                announce(4 * ANSWER_S + self._local)
                self._end(client, runs, event)

    def _log_model(
        self,
        client: MlflowClient,
        runs: runs_of.Pair,
        event: Event,
        copy: Path,
        announce: Announce,
    ) -> None:
        """Log a model; if it was not logged by its files, package it first.

        If that fails, for example because the code has changed since training, or the store refuses
        the size, `advance` raises only after everything else has been uploaded, so that the run
        does not stay RUNNING.
        """
        n_bytes = sum(file.stat().st_size for file in files.within(copy))
        announce(LOCAL_S + 3 * n_bytes / BYTES_PER_S)
        try:
            named = {key: event[key] for key in ("path", "name", "md5") if key in event}
            if not named:
                named = {"path": event["weights"], "name": "model", "md5": hashing.md5(copy)}
                copy = self._packaged(copy, event_log.copy_of(self.path, event["card"]))
            with backend.request_timeout(ANSWER_S + n_bytes / STORED_PER_S):
                models.log(client, runs, copy, **named)
        except Exception as error:  # noqa: BLE001 - a packager, or MLflow, may raise anything
            self.refused = error

    def _packaged(self, weights: Path, config: Path) -> Path:
        packaged = event_log.copies(self.path) / "model"
        if not (packaged / "MLmodel").exists():
            models.package(weights, config, packaged)
        return packaged

    @property
    def _local(self) -> float:
        return LOCAL_S if is_local() else 0.0

    def _end(self, client: MlflowClient, runs: runs_of.Pair, end: Event) -> None:
        hashes = {kind: end.get(kind, {}) for kind in ("outs", "files")}
        client.log_dict(runs.child, {"deps": self.start["deps"]} | hashes, LINEAGE)
        tags = run_tags.of_outs(**hashes)
        tags |= {"retrace.error": end["error"][:5000]} if "error" in end else {}
        entries.log_tags(client, runs.child, tags)
        own = adoption.adopt(client, runs, self.start, end)
        numbers = [] if self.headline else adoption.numbers(own, self.start, end)
        _log_metrics(client, runs, numbers)
        for event in numbers:
            self._log(client, runs, event, lambda _: None)
        self._log_model_metrics(client, runs, end)
        client.set_terminated(runs.child, end["status"], end["time"])
        with backend.lock():
            runs_of.update_status(client, runs.experiment, runs.parent)
            cached_stages.complete(client, runs, self.start, end.get("outs", {}))
            runs_of.log_duration(client, runs.parent, self.start.get("stages", ()))
            if self.start.get("group"):
                groups.summarize(client, runs.experiment, self.start)

    def _log_model_metrics(self, client: MlflowClient, runs: runs_of.Pair, end: Event) -> None:
        """Log the stage's summary metrics for the model too, with the split that was measured."""
        hashes = self.start["deps"] | end.get("files", {}) | end.get("outs", {})
        weights = (hashes[path] for path in self.start.get("models", ()) if path in hashes)
        logged = (models.by_weights(client, runs.experiment, md5) for md5 in weights)
        model = next(filter(None, logged), None) if self.headline else None
        if model is None:
            return
        splits = datasets.splits(self.start)
        measured = []
        for name, entry in self.headline.items():
            split = datasets.split_of(name)
            path = next((path for path in splits if split and splits[path] == split), None)
            digest = self.start["deps"].get(path)
            dataset = (datasets.name(self.start, path), digest) if path else (None, None)
            (point,) = entries.points({name: entry["value"]}, entry["time"])
            measured.append(
                Metric(point.key, point.value, point.timestamp, 0, model, *dataset, runs.parent)
            )
        client.log_batch(runs.parent, metrics=measured)


def finish(path: Path, announce: Announce = lambda _: None, *, wait_s: float = 0.0) -> bool:
    """Upload the event log of an ended stage.

    Return False if another process uploads it; that process may take `wait_s` to end.
    """
    with processes.try_lock(path, timeout_s=wait_s) as free:
        if not free or not path.exists():
            return False
        events = event_log.read(path)
        if events and events[0]["kind"] == "start":
            event_log.close(path)
            Upload(path).advance(announce)
        else:  # the power failed before its first line was complete
            event_log.archive(path)
    return True


class _StoppedError(Exception):
    pass


def try_finish(
    path: Path, announce: Announce = lambda _: None, *, wait_s: float = 0.0
) -> tuple[bool, str | None]:
    """Call `finish`; return whether it uploaded, and why it failed, or None."""
    try:
        return finish(path, announce, wait_s=wait_s), None
    except (_StoppedError, ConnectionError):
        raise
    except Exception as error:  # noqa: BLE001 - of MLflow, its store or a packager
        return False, redacted(
            f"{path}: {type(error).__name__}: {' '.join(str(error).split())[:300]}"
        )


def leftovers(folder: Path, stop: Callable[[], bool]) -> None:
    """Upload the event logs left by killed stages or server failures, until `stop` returns True."""

    def announce(_: float = 0.0) -> None:
        if stop():
            raise _StoppedError

    with suppress(_StoppedError):
        for path in filter(event_log.is_over, event_log.pending(folder)):
            announce()
            try_finish(path, announce)  # if it fails, `retrace sync` says why


def is_local() -> bool:
    """Return whether the store is not a server."""
    return not backend.is_served(backend.address())


def _lost(event: Event) -> dict[str, str]:
    """Return what could not be recorded, and why: by the event, or a file that has no copy."""
    if event["kind"] == "lost":
        return event["values"]
    return {event.get("path") or event["weights"]: NO_COPY}


def _log_artifact(client: MlflowClient, run: str, copy: Path, path: str) -> None:
    """Log the copy of the file `path`, under a name that MLflow accepts."""
    target = PurePosixPath(names.encode_path(path))
    folder = None if str(target.parent) == "." else str(target.parent)
    if target.name == copy.name:
        client.log_artifact(run, str(copy), folder)
        return
    with TemporaryDirectory() as links:
        link = Path(links, target.name)
        link.symlink_to(copy.resolve())
        client.log_artifact(run, str(link), folder)


def _log_metrics(client: MlflowClient, runs: runs_of.Pair, events: list[Event]) -> None:
    for kind, run in (("metrics", runs.child), ("headline", runs.parent)):
        logged = [event for event in events if event["kind"] == kind]
        points = [
            point
            for event in logged
            for point in entries.points(event["values"], event["time"], event["step"])
        ]
        full = dict.fromkeys(name for event in logged for name in event["values"])
        entries.log_metrics(client, run, points, full)
