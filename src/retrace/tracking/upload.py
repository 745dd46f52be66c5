"""A journal, told to MLflow: bit by bit while it grows, or whole; a second time it changes nothing.

Runs are found by their own tags before they are made, and all that is told carries the journal's times.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param

from retrace import hashing, journal, paths, processes
from retrace.journal import Event
from retrace.redaction import redacted
from retrace.tracking import folds, links, models, store
from retrace.tracking import runs as runs_of

MAX_METRICS, MAX_PARAMS, MAX_TAGS = 1000, 100, 100  # a batch; MLflow's limits
ANSWER_S = float(store.ANSWER_S)
LOCAL_S = 120.0  # for a database here, which can only be busy
BYTES_PER_S = 1e6  # of the slowest way to a server that is waited for
STORED_PER_S = 1e7  # by the slowest store behind a server, while which it does not answer
PARTS = {str(paths.TRAIN): "training", str(paths.VALIDATION): "validation", str(paths.TEST): "testing"}
PREFIXES = {"train_": paths.TRAIN, "val_": paths.VALIDATION, "test_": paths.TEST}  # of metrics: what they are taken on

Patience = Callable[[float], None]


class Upload:
    """How far a journal is in MLflow. `advance` may fail at any point and is then called again."""

    def __init__(self, path: Path) -> None:
        self.path, self.position = path, 0
        self.start: Event = {}
        self.runs: runs_of.Pair | None = None
        self.headline: dict[str, Event] = {}
        self.refused: Exception | None = None
        self.ended = False

    def advance(self, patience: Patience = lambda _: None) -> None:
        """MLflow has all that the journal says so far; if it has its end, it is no longer pending.

        Before what may take long, `patience` is told how many seconds.
        """
        if self.ended:
            return
        client = store.client()
        patience(4 * ANSWER_S + self._local)  # it has answered
        events, position = journal.read_from(self.path, self.position)
        if self.runs is None:
            self.start = self.start or events[0]
            self._begin(client)
        assert self.runs is not None  # noqa: S101 - since it has begun
        _log_metrics(client, self.runs, events)
        for event in events:
            self._tell(client, self.runs, event, patience)
        if refused := self.refused:
            self.refused = None
            raise refused
        self.position = position
        if journal.end_of(events):
            self.ended = True
            journal.uploaded(self.path)
            store.tidy(client.tracking_uri)

    def _begin(self, client: MlflowClient) -> None:
        runs = runs_of.pair(client, self.start)
        log_params(client, runs.parent, self.start["params"])
        log_params(client, runs.child, self.start["own_params"])
        client.set_tag(runs.child, "retrace.inputs", self.start["inputs"])
        _log_datasets(client, runs, self.start)
        self.runs = runs

    def _tell(self, client: MlflowClient, runs: runs_of.Pair, event: Event, patience: Patience) -> None:
        kept = journal.copies(self.path)
        match event["kind"]:
            case "tags":
                client.log_batch(runs.child, tags=store.tagged(event["values"]))
            case "headline":
                self.headline |= {name: {**event, "value": value} for name, value in event["values"].items()}
                figures = json.dumps({name: said["value"] for name, said in self.headline.items()})
                client.set_tag(runs.child, links.HEADLINE, figures)
            case "artifact" if (copy := kept / event["path"]).exists():
                n_bytes = copy.stat().st_size
                patience(ANSWER_S + n_bytes / BYTES_PER_S + self._local)
                with store.patient(ANSWER_S + n_bytes / STORED_PER_S):
                    for run in runs.of(event):
                        client.log_artifact(run, str(copy), _folder(event["path"]))
            case "model" if (weights := kept / event["weights"]).exists():
                patience(LOCAL_S + 3 * weights.stat().st_size / BYTES_PER_S)
                self._tell_model(client, runs, weights, kept / event["card"])
            case "end":
                patience(4 * ANSWER_S + self._local)
                self._end(client, runs, event)

    def _tell_model(self, client: MlflowClient, runs: runs_of.Pair, weights: Path, card: Path) -> None:
        """MLflow has the model; where it cannot be packaged, as by other code than made it, `advance` fails, but only
        when all else is told, so that the run does not seem to go on.
        """
        packaged = journal.copies(self.path) / "model"
        try:
            if not (packaged / "MLmodel").exists():
                models.package(weights, card, packaged)
        except Exception as error:  # noqa: BLE001 - whatever torch can fail with
            self.refused = error
        else:
            with store.patient(ANSWER_S + weights.stat().st_size / STORED_PER_S):
                models.log(client, runs, packaged, hashing.md5(weights))

    @property
    def _local(self) -> float:
        return LOCAL_S if is_local() else 0.0

    def _end(self, client: MlflowClient, runs: runs_of.Pair, end: Event) -> None:
        tags = {f"dvc.outs.{out}": md5 for out, md5 in end.get("outs", {}).items()}
        tags |= {f"retrace.made.{md5}": path for path, md5 in (end.get("outs", {}) | end.get("files", {})).items()}
        tags |= {"retrace.error": end["error"][:5000]} if "error" in end else {}
        for batch in _batches(store.tagged(tags), MAX_TAGS):
            client.log_batch(runs.child, tags=batch)
        self._log_model_metrics(client, runs, end)
        client.set_terminated(runs.child, end["status"], end["time"])
        with store.lock():
            runs_of.settle(client, runs.experiment, runs.parent)
            links.complete(client, runs, self.start, end.get("outs", {}))
            if self.start["folds"]:
                folds.summarize(client, runs.experiment, self.start)

    def _log_model_metrics(self, client: MlflowClient, runs: runs_of.Pair, end: Event) -> None:
        """What the stage measured of a model is the model's too, tied to the part that it was measured on."""
        md5 = (self.start["deps"] | end.get("outs", {})).get(str(paths.WEIGHTS))
        model = models.by_weights(client, runs.experiment, md5) if md5 and self.headline else None
        if model is None:
            return
        measured = []
        for name, said in self.headline.items():
            part = next((str(part) for prefix, part in PREFIXES.items() if name.startswith(prefix)), "")
            digest = self.start["deps"].get(part)
            dataset = (_dataset_name(self.start, part), digest) if digest else (None, None)
            measured.append(Metric(name, said["value"], said["time"], 0, model, *dataset, runs.parent))
        client.log_batch(runs.parent, metrics=measured)


def whole(path: Path, patience: Patience = lambda _: None) -> bool:
    """Whether MLflow has now all of the journal at `path`, of a stage that is over; not if another process is at it."""
    with processes.try_lock(path) as free:
        if not free or not path.exists():
            return False
        if (events := journal.read(path)) and events[0]["kind"] == "start":
            journal.close(path)
            Upload(path).advance(patience)
        else:  # the power failed before its first line was whole
            journal.uploaded(path)
    return True


class _StoppedError(Exception):
    pass


def tried(path: Path, patience: Patience = lambda _: None) -> tuple[bool, str | None]:
    """`whole`, where one journal that MLflow refuses must not keep others away; and why it was refused, if it was."""
    try:
        return whole(path, patience), None
    except (_StoppedError, ConnectionError):
        raise
    except Exception as error:  # noqa: BLE001 - whatever MLflow, its store or torch can fail with
        return False, redacted(f"{path}: {type(error).__name__}: {' '.join(str(error).split())[:300]}")


def leftovers(folder: Path, stop: Callable[[], bool]) -> None:
    """MLflow has the journals that killed stages and dead servers left, as far as there is time until `stop`."""

    def patience(_: float = 0.0) -> None:
        if stop():
            raise _StoppedError

    with suppress(_StoppedError):
        for path in filter(journal.is_over, journal.pending(folder)):
            patience()
            tried(path, patience)  # what MLflow refuses stays pending, and `retrace sync` tells of it


def is_local() -> bool:
    """Whether the store is no server's."""
    return not store.is_served(store.address())


def _folder(path: str) -> str | None:
    above = str(Path(path).parent)
    return None if above == "." else above


def _batches(values: list[Any], size: int) -> Iterator[list[Any]]:
    return (values[first : first + size] for first in range(0, len(values), size))


def log_params(client: MlflowClient, run: str, values: Mapping[str, Any]) -> None:
    for batch in _batches([Param(name, str(value)) for name, value in values.items()], MAX_PARAMS):
        client.log_batch(run, params=batch)


def _log_metrics(client: MlflowClient, runs: runs_of.Pair, events: list[Event]) -> None:
    of: dict[str, list[Metric]] = {runs.child: [], runs.parent: []}
    shown_in = {"metrics": runs.child, "headline": runs.parent}
    for event in events:
        if run := shown_in.get(event["kind"]):
            of[run] += [Metric(key, value, event["time"], event["step"]) for key, value in event["values"].items()]
    for run, logged in of.items():
        for batch in _batches(logged, MAX_METRICS):
            client.log_batch(run, metrics=batch)


def _log_datasets(client: MlflowClient, runs: runs_of.Pair, start: Event) -> None:
    """The parts that the stage reads are data sets of both runs, with DVC's MD5 as their digest."""
    logged = []
    for path, context in PARTS.items():
        if md5 := start["deps"].get(path):
            dataset = Dataset(_dataset_name(start, path), md5, "local", json.dumps({"uri": path}))
            logged.append(DatasetInput(dataset, [InputTag("mlflow.data.context", context)]))
    if logged:
        for run in (runs.child, runs.parent):
            client.log_inputs(run, logged)


def _dataset_name(start: Event, path: str) -> str:
    return f"{start['dataset']} {Path(path).stem}"
