"""Upload an event log to MLflow, as it grows or at once. Uploading it again changes nothing.

Runs are found by their tags before they are created; all entries have the times of the event log.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param

from retrace import event_log, settings
from retrace.event_log import Event
from retrace.pipeline import hashing
from retrace.store import backend, cached_stages, folds, models
from retrace.store import runs as runs_of
from retrace.system import processes
from retrace.system.redaction import redacted

MAX_METRICS, MAX_PARAMS, MAX_TAGS = 1000, 100, 100  # per batch: MLflow's limits
ANSWER_S = float(backend.ANSWER_S)
LOCAL_S = 120.0  # for a local database, in case it is busy
BYTES_PER_S = 1e6  # of the slowest connection to a server
STORED_PER_S = 1e7  # of the slowest artifact store, which a server waits for
SPLITS = {
    str(settings.TRAIN): "training",
    str(settings.VALIDATION): "validation",
    str(settings.TEST): "testing",
}
PREFIXES = {  # split by prefix of a metric's name
    "train_": settings.TRAIN,
    "val_": settings.VALIDATION,
    "test_": settings.TEST,
}

Announce = Callable[[float], None]


class Upload:
    """The upload of one event log. `advance` may fail at any point, and is then called again."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.position = 0
        self.start: Event = {}
        self.runs: runs_of.Pair | None = None
        self.headline: dict[str, Event] = {}
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
        log_params(client, runs.parent, self.start["params"])
        log_params(client, runs.child, self.start["own_params"])
        client.set_tag(runs.child, "retrace.inputs", self.start["inputs"])
        _log_datasets(client, runs, self.start)
        self.runs = runs

    def _log(
        self, client: MlflowClient, runs: runs_of.Pair, event: Event, announce: Announce
    ) -> None:
        kept = event_log.copies(self.path)
        match event["kind"]:
            case "tags":
                client.log_batch(runs.child, tags=backend.tagged(event["values"]))
            case "headline":
                self.headline |= {
                    name: {**event, "value": value} for name, value in event["values"].items()
                }
                metrics = {name: entry["value"] for name, entry in self.headline.items()}
                client.set_tag(runs.child, cached_stages.HEADLINE, json.dumps(metrics))
            case "artifact" if (copy := kept / event["path"]).exists():
                n_bytes = copy.stat().st_size
                announce(ANSWER_S + n_bytes / BYTES_PER_S + self._local)
                with backend.request_timeout(ANSWER_S + n_bytes / STORED_PER_S):
                    for run in runs.targets(event):
                        client.log_artifact(run, str(copy), _folder(event["path"]))
            case "model" if (weights := kept / event["weights"]).exists():
                announce(LOCAL_S + 3 * weights.stat().st_size / BYTES_PER_S)
                self._log_model(client, runs, weights, kept / event["card"])
            case "end":
                announce(4 * ANSWER_S + self._local)
                self._end(client, runs, event)

    def _log_model(
        self, client: MlflowClient, runs: runs_of.Pair, weights: Path, config: Path
    ) -> None:
        """Package and log the model.

        If packaging fails, for example because the code has changed since training, `advance`
        raises only after everything else has been uploaded, so that the run does not stay RUNNING.
        """
        packaged = event_log.copies(self.path) / "model"
        try:
            if not (packaged / "MLmodel").exists():
                models.package(weights, config, packaged)
        except Exception as error:  # noqa: BLE001 - a packager may raise anything
            self.refused = error
        else:
            with backend.request_timeout(ANSWER_S + weights.stat().st_size / STORED_PER_S):
                models.log(client, runs, packaged, hashing.md5(weights))

    @property
    def _local(self) -> float:
        return LOCAL_S if is_local() else 0.0

    def _end(self, client: MlflowClient, runs: runs_of.Pair, end: Event) -> None:
        tags = {f"dvc.outs.{out}": md5 for out, md5 in end.get("outs", {}).items()}
        tags |= {
            f"retrace.made.{md5}": path
            for path, md5 in (end.get("outs", {}) | end.get("files", {})).items()
        }
        tags |= {"retrace.error": end["error"][:5000]} if "error" in end else {}
        for batch in _batches(backend.tagged(tags), MAX_TAGS):
            client.log_batch(runs.child, tags=batch)
        self._log_model_metrics(client, runs, end)
        client.set_terminated(runs.child, end["status"], end["time"])
        with backend.lock():
            runs_of.update_status(client, runs.experiment, runs.parent)
            cached_stages.complete(client, runs, self.start, end.get("outs", {}))
            if self.start["folds"]:
                folds.summarize(client, runs.experiment, self.start)

    def _log_model_metrics(self, client: MlflowClient, runs: runs_of.Pair, end: Event) -> None:
        """Log the stage's summary metrics for the model too, with the split that was measured."""
        md5 = (self.start["deps"] | end.get("outs", {})).get(str(settings.WEIGHTS))
        model = models.by_weights(client, runs.experiment, md5) if md5 and self.headline else None
        if model is None:
            return
        measured = []
        for name, entry in self.headline.items():
            split = next(
                (str(split) for prefix, split in PREFIXES.items() if name.startswith(prefix)), ""
            )
            digest = self.start["deps"].get(split)
            dataset = (_dataset_name(self.start, split), digest) if digest else (None, None)
            measured.append(
                Metric(name, entry["value"], entry["time"], 0, model, *dataset, runs.parent)
            )
        client.log_batch(runs.parent, metrics=measured)


def finish(path: Path, announce: Announce = lambda _: None) -> bool:
    """Upload the event log of an ended stage.

    Return False if another process is already uploading it.
    """
    with processes.try_lock(path) as free:
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


def try_finish(path: Path, announce: Announce = lambda _: None) -> tuple[bool, str | None]:
    """Call `finish`; return whether it uploaded, and why it failed, or None."""
    try:
        return finish(path, announce), None
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


def _folder(path: str) -> str | None:
    folder = str(Path(path).parent)
    return None if folder == "." else folder


def _batches(values: list[Any], size: int) -> Iterator[list[Any]]:
    return (values[first : first + size] for first in range(0, len(values), size))


def log_params(client: MlflowClient, run: str, values: Mapping[str, Any]) -> None:
    for batch in _batches([Param(name, str(value)) for name, value in values.items()], MAX_PARAMS):
        client.log_batch(run, params=batch)


def _log_metrics(client: MlflowClient, runs: runs_of.Pair, events: list[Event]) -> None:
    metrics: dict[str, list[Metric]] = {runs.child: [], runs.parent: []}
    targets = {"metrics": runs.child, "headline": runs.parent}
    for event in events:
        run = targets.get(event["kind"])
        if run:
            values = event["values"].items()
            metrics[run] += [
                Metric(key, value, event["time"], event["step"]) for key, value in values
            ]
    for run, logged in metrics.items():
        for batch in _batches(logged, MAX_METRICS):
            client.log_batch(run, metrics=batch)


def _log_datasets(client: MlflowClient, runs: runs_of.Pair, start: Event) -> None:
    """Log the splits that the stage reads as datasets of both runs, with DVC's MD5 as digest."""
    logged = []
    for path, context in SPLITS.items():
        md5 = start["deps"].get(path)
        if md5:
            dataset = Dataset(_dataset_name(start, path), md5, "local", json.dumps({"uri": path}))
            logged.append(DatasetInput(dataset, [InputTag("mlflow.data.context", context)]))
    if logged:
        for run in (runs.child, runs.parent):
            client.log_inputs(run, logged)


def _dataset_name(start: Event, path: str) -> str:
    return f"{start['dataset']} {Path(path).stem}"
