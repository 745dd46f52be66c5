"""A stage's journal, shown in MLflow: one parent run an experiment, one child run a stage.

The stage writes its journal and never waits for MLflow; when it has ended, by itself, by an error or by a signal that
can be caught, the journal is uploaded. A server that is away costs a warning, never a result. Runs are found by their
own tags before they are made, and everything carries the journal's times, so that uploading twice changes nothing.
"""

import logging
import os
import signal
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from retrace import folds, journal, lineage, params
from retrace.errors import Terminated
from retrace.journal import Event, Journal

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

MAX_METRICS, MAX_PARAMS = 1000, 100  # a batch; MLflow's limits
LOCK_TIMEOUT_S = 120  # four stages that make the store together take a tenth of it
REQUIREMENTS = ("torch", "numpy")  # of the served model


@contextmanager
def stage(name: str) -> Iterator[Journal]:
    """Yield the journal of stage `name`; afterwards MLflow has a run with all of it and a truthful status."""
    values = params.read()
    deps, outs = lineage.files_of(name, values)
    record = Journal(
        lineage.root() / ".retrace" / "journal",
        stage=name,
        dataset=values["dataset"],
        key=lineage.key(values),
        folds=lineage.key(values | {"fold": None}) if values["folds"] > 1 else None,
        experiment=lineage.experiment(),
        commit=lineage.commit(),
        user=lineage.user(),
        params=params.chosen(values),
        own_params=params.chosen(values, params.STAGES[name]),
        deps=_hashes(deps),
    )
    try:
        yield record
        record.end("FINISHED", outs=_hashes(outs))
    except (KeyboardInterrupt, Terminated):
        record.end("KILLED")
        raise
    except BaseException as error:
        record.end("FAILED", error=f"{type(error).__name__}: {error}")
        raise
    finally:
        _show(record.path)


def _hashes(files: Iterable[Path]) -> dict[str, str]:
    return {file.as_posix(): lineage.md5(file) for file in files if file.exists()}


def _show(path: Path) -> None:
    """Upload now; a failure is one line, for the stage's work is done and its journal is on the disk.

    A signal is answered when the upload is over, so that it leaves no run that seems to go on.
    """
    arrived: list[int] = []
    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    handlers = {number: signal.signal(number, lambda number, _: arrived.append(number)) for number in signals}
    try:
        upload(path)
    except Exception as error:  # noqa: BLE001 - whatever MLflow, its server or its store can fail with
        reason = " ".join(str(error).split())[:300]
        print(f"warning: MLflow does not have all of this run: {reason}; its journal is {path}", file=sys.stderr)
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        if arrived:
            os.kill(os.getpid(), arrived[0])


@dataclass(frozen=True)
class _Pair:
    """The two runs that a stage is shown in."""

    parent: str
    child: str

    def of(self, event: Event) -> tuple[str, ...]:
        return (self.child, self.parent) if event.get("headline") else (self.child,)


def upload(path: Path) -> None:
    """MLflow has what the journal at `path` says."""
    events = journal.read(path)
    client = _client()
    runs = _runs(client, events[0])
    try:
        _log_params(client, runs.parent, events[0]["params"])
        _log_params(client, runs.child, events[0]["own_params"])
        _log_metrics(client, runs, events)
        for event in events:
            if event["kind"] == "tags":
                client.log_batch(runs.child, tags=_tags(event["values"]))
            elif event["kind"] == "artifact":
                for run in runs.of(event):
                    client.log_artifact(run, event["path"], str(Path(event["path"]).parent))
            elif event["kind"] == "model":
                _log_model(client, runs, Path(event["weights"]), Path(event["card"]))
    finally:  # what could not be uploaded must not leave a run that seems to go on
        _close(client, runs, events[0], events[-1])
    if events[0]["folds"]:
        with _lock():
            folds.summarize(client, _experiment_id(client, events[0]["dataset"]), events[0])


def _client() -> "MlflowClient":
    """A client of the store, which is made if it is a missing file."""
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    os.environ.setdefault("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
    import mlflow

    logging.getLogger("mlflow").setLevel(logging.WARNING)
    place = _store()
    database = Path(place.removeprefix("sqlite:///"))
    with _lock():
        if place.startswith("sqlite:///") and not database.exists():
            # Two processes that migrate one file break it, so it is made aside and appears whole.
            unfinished = database.with_name(f".{database.name}.{os.getpid()}")
            mlflow.MlflowClient(f"sqlite:///{unfinished}").search_experiments()
            unfinished.replace(database)
    return mlflow.MlflowClient(place)


def _store() -> str:
    """MLFLOW_TRACKING_URI, or a database in the main repository.

    A file is absolute, so that a queued experiment, which runs in a folder of its own, finds it.
    """
    place = os.environ.get("MLFLOW_TRACKING_URI") or "sqlite:///mlflow.db"
    if place.startswith("sqlite:///"):
        return f"sqlite:///{lineage.root() / place.removeprefix('sqlite:///')}"
    return place


def _lock() -> FileLock:
    return FileLock(lineage.root() / ".retrace" / "mlflow.lock", timeout=LOCK_TIMEOUT_S)


def _runs(client: "MlflowClient", start: Event) -> _Pair:
    """The runs of a journal, found by tag or made; the lock keeps two stages from making the same parent."""
    with _lock():
        experiment = _experiment_id(client, start["dataset"])
        parent = _found(client, experiment, "retrace.key", start["key"])
        name = start["experiment"].get("dvc.exp_name", f"repro-{start['key'][:7]}")
        if parent is None:
            tags = {"retrace.key": start["key"]} | _origin(start, "dvc.yaml")
            tags |= {folds.TAG: start["folds"]} if start["folds"] else {}
            parent = client.create_run(experiment, start["time"], tags, name)
        elif start["experiment"]:  # DVC has a new name for it, by which people look for it
            client.log_batch(parent.info.run_id, tags=_tags({"mlflow.runName": name} | start["experiment"]))
        child = _found(client, experiment, "retrace.journal", start["id"])
        if child is None:
            tags = {
                "mlflow.parentRunId": parent.info.run_id,
                "retrace.journal": start["id"],
                "retrace.stage": start["stage"],
            }
            tags |= _origin(start, f"stages/{start['stage']}.py")
            tags |= {f"dvc.deps.{dep}": md5 for dep, md5 in start["deps"].items()}
            child = client.create_run(experiment, start["time"], tags, start["stage"])
    return _Pair(parent.info.run_id, child.info.run_id)


def _experiment_id(client: "MlflowClient", name: str) -> str:
    if found := client.get_experiment_by_name(name):
        if found.lifecycle_stage == "deleted":
            client.restore_experiment(found.experiment_id)
        return found.experiment_id
    # Fixed for ever, hence absolute: a queued experiment's own folder is deleted. A server has a place of its own.
    served = client.tracking_uri.startswith(("http://", "https://"))
    place = None if served else (lineage.root() / "mlruns" / name).as_uri()
    return client.create_experiment(name, place, {"mlflow.experimentKind": "custom_model_development"})


def _found(client: "MlflowClient", experiment: str, tag: str, value: str) -> "Run | None":
    found = client.search_runs([experiment], f"tags.`{tag}` = '{value}'", max_results=1, order_by=["start_time ASC"])
    return found[0] if found else None


def _origin(start: Event, source: str) -> dict[str, str]:
    """Tags that say where a run comes from."""
    tags = {"mlflow.source.type": "LOCAL", "mlflow.source.name": source, "mlflow.user": start["user"]}
    tags |= start["experiment"]
    return tags | ({"mlflow.source.git.commit": start["commit"]} if start["commit"] else {})


def _log_params(client: "MlflowClient", run: str, values: Mapping[str, Any]) -> None:
    from mlflow.entities import Param

    logged = [Param(name, str(value)) for name, value in values.items()]
    for first in range(0, len(logged), MAX_PARAMS):
        client.log_batch(run, params=logged[first : first + MAX_PARAMS])


def _log_metrics(client: "MlflowClient", runs: _Pair, events: list[Event]) -> None:
    from mlflow.entities import Metric

    of: dict[str, list[Metric]] = {runs.child: [], runs.parent: []}
    shown_in = {"metrics": runs.child, "headline": runs.parent}
    for event in events:
        if run := shown_in.get(event["kind"]):
            of[run] += [Metric(key, value, event["time"], event["step"]) for key, value in event["values"].items()]
    for run, logged in of.items():
        for first in range(0, len(logged), MAX_METRICS):
            client.log_batch(run, metrics=logged[first : first + MAX_METRICS])


def _tags(values: Mapping[str, str]) -> list[Any]:
    from mlflow.entities import RunTag

    return [RunTag(name, value) for name, value in values.items()]


def _log_model(client: "MlflowClient", runs: _Pair, weights: Path, card: Path) -> None:
    """The network as a pt2 program from raw inputs to probabilities, an output of the child and of the parent."""
    import mlflow
    import torch
    from mlflow import pytorch
    from mlflow.entities import LoggedModelOutput
    from mlflow.models import infer_signature

    from retrace import classifier

    outputs = client.get_run(runs.parent).outputs
    if outputs and any(client.get_logged_model(o.model_id).source_run_id == runs.child for o in outputs.model_outputs):
        return
    model, said = classifier.load(weights, card)
    served = classifier.Served(model).eval().to(memory_format=torch.contiguous_format)
    example = classifier.example(said, 2).numpy()  # two: a batch of one would fix the batch size
    with torch.inference_mode():
        signature = infer_signature(example, served(torch.from_numpy(example)).numpy())
    mlflow.set_tracking_uri(client.tracking_uri)
    with mlflow.start_run(runs.child):
        logged = pytorch.log_model(
            served,
            name="model",
            signature=signature,
            input_example=example,
            pip_requirements=[f"{package}=={version(package)}" for package in REQUIREMENTS],
            metadata={"class_names": list(said.class_names)},
        )
    client.log_outputs(runs.parent, [LoggedModelOutput(logged.model_id, 0)])


def _close(client: "MlflowClient", runs: _Pair, start: Event, end: Event) -> None:
    for run in (runs.child, runs.parent):
        client.set_terminated(run, end.get("status", "KILLED"), end["time"])
    tags = {f"dvc.outs.{out}": md5 for out, md5 in end.get("outs", {}).items()}
    if "error" in end:
        tags["retrace.error"] = end["error"]
    client.log_batch(runs.child, tags=_tags(tags))
    client.log_batch(runs.parent, tags=_tags({f"retrace.run.{start['stage']}": runs.child}))
