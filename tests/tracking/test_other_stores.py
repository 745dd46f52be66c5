"""Runs in MLflow stores that a stage's code names itself."""

import math
import os
import shutil
import sqlite3
from pathlib import Path

import pytest

from retrace import event_log
from retrace.event_log import Event, EventLog
from retrace.pipeline.workspace import Workspace
from retrace.tracking import other_stores

DVC_YAML = """
stages:
  fit:
    cmd: python fit.py
    wdir: code
    deps: [fit.py]
    outs: [results]
"""
FIT = """
mlflow.set_tracking_uri("sqlite:///runs/own%201.db")
logger = MLFlowLogger(tracking_uri="http://user:pass@tracker:5000")
os.environ["MLFLOW_TRACKING_URI"] = "../logs"
mlflow.set_tracking_uri(args.uri)
"""
OLD_SCHEMA = """
CREATE TABLE experiments (experiment_id INTEGER, name TEXT);
CREATE TABLE runs (run_uuid TEXT, name TEXT, experiment_id INTEGER, status TEXT,
  start_time BIGINT, end_time BIGINT, lifecycle_stage TEXT, artifact_uri TEXT);
CREATE TABLE params (key TEXT, value TEXT, run_uuid TEXT);
CREATE TABLE tags (key TEXT, value TEXT, run_uuid TEXT);
CREATE TABLE metrics
  (key TEXT, value FLOAT, timestamp BIGINT, run_uuid TEXT, step BIGINT, is_nan BOOLEAN);
CREATE TABLE latest_metrics
  (key TEXT, value FLOAT, timestamp BIGINT, run_uuid TEXT, step BIGINT, is_nan BOOLEAN);
INSERT INTO experiments VALUES (0, 'Default');
"""


@pytest.fixture
def log(folder: Path) -> EventLog:
    """Return the event log of a stage that just began, in a repository with its code."""
    (folder / ".dvc").mkdir()
    (folder / "dvc.yaml").write_text(DVC_YAML)
    (folder / "code").mkdir()
    (folder / "code" / "fit.py").write_text(FIT)
    return EventLog(event_log.folder(), stage="fit")


def events(log: EventLog) -> list[Event]:
    """Return what is logged of the stage's stores."""
    workspace = Workspace(Path.cwd())
    other_stores.log(log, workspace, workspace.pipeline.stages["fit"])
    return event_log.read(log.path)[1:]


def run_in_folder(store: Path, run: str, start_time: int, stage: str = "active") -> Path:
    """Make a run in MLflow's file store; return its folder."""
    folder = store / "7" / run
    for name, text in {
        "../meta.yaml": "name: theirs\n",
        "meta.yaml": f"run_id: {run}\nrun_name: a run\nstatus: 3\nstart_time: {start_time}\n"
        f"end_time: {start_time + 5}\nlifecycle_stage: {stage}\nartifact_uri: s3://bucket/x\n",
        "params/lr": "0.1",
        "tags/mlflow.parentRunId": "above",
        "metrics/val/loss": "5 0.5 0\n6 nan 1\n",
        "metrics/old": "5 0.25",
        "artifacts/a/b.txt": "text",
    }.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def run_in_file(file: Path, run: str, start_time: int) -> None:
    """Make a run in a SQLite file of an MLflow whose tables have fewer columns."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with sqlite3.connect(file) as database:
        if not database.execute("SELECT * FROM sqlite_master").fetchall():
            database.executescript(OLD_SCHEMA)
        database.execute(
            "INSERT INTO runs VALUES (?, '', 0, 'FAILED', ?, ?, 'active', 'artifacts')",
            (run, start_time, start_time + 5),
        )
        database.execute("INSERT INTO metrics VALUES ('acc', 0, 5, ?, 2, 1)", (run,))
        database.execute("INSERT INTO tags VALUES ('mlflow.runName', 'named', ?)", (run,))


@pytest.mark.parametrize("store", ["logs", "mlruns", "code/mlruns", "code/results"])
def test_folder_is_read(log: EventLog, store: str) -> None:
    start = log.header["time"]
    run_in_folder(Path(store), "new", start + 1)
    deleted = run_in_folder(Path(store), "gone", start + 1, stage="deleted")
    (event,) = events(log)[:-1]
    run = event["values"]
    assert deleted.exists()
    assert (run["id"], run["name"], run["experiment"]) == ("new", "a run", "theirs")
    assert (run["status"], run["start_time"], run["end_time"]) == (
        "FINISHED",
        start + 1,
        start + 6,
    )
    assert run["store"] == store
    assert run["params"] == {"lr": "0.1"}
    assert run["tags"] == {"mlflow.parentRunId": "above"}
    assert [point[0] for point in run["metrics"]] == ["old", "val/loss", "val/loss"]
    assert run["metrics"][:2] == [["old", 0.25, 5, 0], ["val/loss", 0.5, 5, 0]]
    copied = event_log.copy_of(log.path, "other_runs/new/a/b.txt")
    assert copied.read_text() == "text"


@pytest.mark.parametrize("store", ["code/runs/own 1.db", "any.sqlite", "code/x.db"])
def test_sqlite_file_is_read(log: EventLog, store: str) -> None:
    start = log.header["time"]
    run_in_file(Path(store), "old", start - 100)
    run_in_file(Path(store), "new", start + 1)
    before = Path(store).read_bytes()
    (event,) = events(log)[:-1]
    run = event["values"]
    assert (run["id"], run["name"], run["experiment"]) == ("new", "named", "Default")
    assert (run["status"], run["store"]) == ("FAILED", store)
    key, value, *at = run["metrics"][0]
    assert (key, math.isnan(value), at) == ("acc", True, [5, 2])
    assert Path(store).read_bytes() == before


def test_only_changed_runs_are_read(log: EventLog) -> None:
    start = log.header["time"]
    for name in ("old", "changed"):
        folder = run_in_folder(Path("mlruns"), name, start - 10_000)
        for path in (*folder.rglob("*"), folder):
            os.utime(path, (start / 1000 - 10, start / 1000 - 10))
    with (folder / "metrics" / "old").open("a") as file:
        file.write("\n6 0.5 1\n")
    assert [event["values"]["id"] for event in events(log)[:-1]] == ["changed"]


def test_server_is_named(log: EventLog) -> None:
    (event,) = events(log)
    assert event["values"] == {"retrace.other_stores": "http://***@tracker:5000"}


def test_our_store_is_not_read(log: EventLog, empty_store: Path) -> None:
    shutil.copy(empty_store, "mlflow.db")
    run_in_file(Path("code/x.db"), "new", log.header["time"])
    assert [event["values"].get("store") for event in events(log)] == ["code/x.db", None]


@pytest.mark.parametrize("content", [b"", b"no database", b"run_id: [", b"a: 1"])
def test_other_files_are_no_stores(log: EventLog, content: bytes) -> None:
    Path("data.db").write_bytes(content)
    Path("mlruns/0/x").mkdir(parents=True)
    Path("mlruns/0/x/meta.yaml").write_bytes(content)
    assert len(events(log)) == 1


def test_large_artifact_is_not_copied(log: EventLog) -> None:
    folder = run_in_folder(Path("mlruns"), "new", log.header["time"])
    with (folder / "artifacts" / "large.bin").open("wb") as file:
        file.truncate(21 * 10**6)
    events(log)
    assert [path.name for path in event_log.copies(log.path).rglob("*.*")] == ["b.txt"]
