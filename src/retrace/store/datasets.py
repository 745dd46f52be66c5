"""The splits that a stage reads, as datasets of MLflow."""

import json
import re
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag

from retrace.event_log import Event
from retrace.store import names
from retrace.store.runs import Pair, experiment_name

SPLITS = {  # MLflow's name of a split, by the beginning of a file's or a metric's name
    "train": "training",
    "val": "validation",
    "dev": "validation",
    "test": "testing",
}


def log(client: MlflowClient, runs: Pair, start: Event) -> None:
    """Log the splits that the stage reads as datasets of both runs, with DVC's MD5 as digest."""
    logged = []
    for path, context in splits(start).items():
        dataset = Dataset(
            name(start, path), start["deps"][path], "local", json.dumps({"uri": path})
        )
        logged.append(DatasetInput(dataset, [InputTag("mlflow.data.context", context)]))
    if logged:
        for run in (runs.child, runs.parent):
            client.log_inputs(run, logged)


def name(start: Event, path: str) -> str:
    """Return the name of the dataset of a split."""
    return names.storable(f"{experiment_name(start)} {Path(path).stem}", names.MAX_DATASET)


def splits(start: Event) -> dict[str, str]:
    """Return the splits that a stage reads: MLflow's name of each by path."""
    named = {path: split_of(Path(path).stem) for path in start.get("data", ())}
    return {path: split for path, split in named.items() if split}


def split_of(name: str) -> str | None:
    """Return MLflow's name of the split that a file or a metric is of, by its own name."""
    word = re.match(r"(train|val|dev|test)(ing|idation|id|elopment)?(?![a-z])", name, re.IGNORECASE)
    return SPLITS[word[1].lower()] if word else None
