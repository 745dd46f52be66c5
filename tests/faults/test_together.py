"""Concurrent stages, experiments and syncs create nothing twice and nothing incomplete."""

import os
import shutil
import signal
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from repository import Clone

import retrace
from faults.servers import Server, rows, until
from faults.stages import (
    CONTENT,
    HISTORY,
    Stage,
    artifact,
    check_complete,
    find_runs,
    parents,
    pending,
    set_params,
    sync,
    syncing,
)
from lab import paths
from lab.models import classifier
from lab.models.classifier import ModelConfig
from retrace import event_log
from retrace.tracking import uploader_client

EPOCHS = 150  # of each stage that is synced: some hundred points
SWEEP = 12


class Nobody:
    """No background uploader, so that the event log stays."""

    def __init__(self, path: Path, *, has_successor: bool) -> None:
        pass

    def wait(self) -> None:
        pass


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the event logs of stages in this process to sync."""
    monkeypatch.setattr(uploader_client, "Uploader", Nobody)


def leave(folder: Path, n_experiments: int) -> list[Path]:
    """Run two stages of as many experiments without an upload; return their event logs."""
    paths.HISTORY.parent.mkdir(exist_ok=True)
    paths.HISTORY.write_bytes(CONTENT)
    left = []
    for number in range(n_experiments):
        set_params(folder, batch_size=str(number + 16))
        for name in ("train", "evaluate"):
            with retrace.stage(name) as run:
                for epoch in range(1, EPOCHS + 1):
                    run.metrics(
                        {"train_loss": 1 / epoch, "val_loss": 2 / epoch, "val_accuracy": 0.5}, epoch
                    )
                run.artifact(paths.HISTORY, summary=True)
                run.summary({"val_loss": 0.25})
            left.append(run.path)
    return left


def integrity(database: Path) -> str:
    with sqlite3.connect(database) as connected:
        return connected.execute("PRAGMA integrity_check").fetchone()[0]


def test_four_stages_create_one_database(folder: Path) -> None:
    def run(name: str) -> Stage:
        with Stage(folder, name) as stage:
            stage.end()
            assert stage.stderr == ""
            return stage

    with ThreadPoolExecutor(4) as pool:
        stages = list(pool.map(run, ("download", "preprocess", "train", "evaluate")))
    store = f"sqlite:///{folder / 'mlflow.db'}"
    for stage in stages:
        check_complete(store, folder, stage.log)
    assert len(parents(store, folder)) == 1
    assert integrity(folder / "mlflow.db") == "ok"
    assert not list(folder.glob(".mlflow*"))


@pytest.mark.faults
@pytest.mark.usefixtures("alone")
@pytest.mark.xdist_group("servers")
def test_concurrent_syncs_are_idempotent(folder: Path, server: Server) -> None:
    left = leave(folder, 3)
    shutil.copytree(left[0].parent, folder / "before")
    at_once = [syncing(folder, MLFLOW_TRACKING_URI=server.url) for _ in range(2)]
    for process in at_once:
        output, _ = process.communicate(timeout=120)
        assert process.returncode == 0, output
    assert pending(folder) == []
    for path in left:
        check_complete(server.url, folder, path)
    assert len(parents(server.url, folder)) == 3
    before = rows(server.store)
    sync(folder, MLFLOW_TRACKING_URI=server.url)
    assert rows(server.store) == before
    shutil.copytree(folder / "before", left[0].parent, dirs_exist_ok=True)  # and as if none were
    sync(folder, MLFLOW_TRACKING_URI=server.url)
    assert rows(server.store) == before


@pytest.mark.faults
@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize("share", [0.02, 0.3, 0.55, 0.8, 0.97])
def test_sync_completes_killed_sync(folder: Path, local: str, share: float) -> None:
    left = leave(folder, 2)
    total = len(left) * EPOCHS * 3

    def has_share() -> bool:
        with sqlite3.connect(folder / "mlflow.db", timeout=60) as database:
            return database.execute("SELECT count(*) FROM metrics").fetchone()[0] >= share * total

    with syncing(folder) as process:
        until(has_share, what="a part of the metrics in MLflow")
        process.send_signal(signal.SIGKILL)
        process.communicate()
    sync(folder)
    for path in left:
        check_complete(local, folder, path)
    assert len(parents(local, folder)) == 2
    assert integrity(folder / "mlflow.db") == "ok"
    before = rows(local)
    sync(folder)
    assert rows(local) == before


@pytest.mark.faults
@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize(
    "broken", [b"", b'{"kind": "sta', b'{"kind": "tags", "time": 1, "values": {}}\n']
)
def test_event_log_without_start_blocks_none(folder: Path, local: str, broken: bytes) -> None:
    (folder / ".retrace/journal").mkdir(parents=True)
    (folder / ".retrace/journal/20000101T000000-train-00000000.jsonl").write_bytes(broken)
    left = leave(folder, 1)
    with Stage(folder, "visualize") as stage:
        until(
            lambda: not set(pending(folder)) & {path.name for path in left},
            what="the others' upload",
        )
        stage.end()
        assert stage.stderr == ""
    for path in left:
        check_complete(local, folder, path)


@pytest.mark.faults
@pytest.mark.usefixtures("alone")
def test_half_packaged_model_is_completed(
    folder: Path, local: str, config_of: Callable[[str, int], ModelConfig]
) -> None:
    config = config_of("mlp", 8)
    with retrace.stage("train") as run:
        classifier.save(classifier.build(config), config)
        run.model(paths.WEIGHTS, paths.MODEL_CONFIG)
    (event_log.copies(run.path) / "model/data").mkdir(parents=True)
    (event_log.copies(run.path) / "model/data/model.pt2").write_bytes(b"half")
    sync(folder)
    (child,) = find_runs(local, journal=run.path.stem)
    assert child.info.status == "FINISHED"
    assert child.outputs is not None
    assert len(child.outputs.model_outputs) == 1


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clone]:
    """Yield a clone in which the five stages ran once on the digits and were committed."""
    small = {
        "dataset: mnist": "dataset: digits",
        "epochs: 5": "epochs: 2",
        "threads: 2": "threads: 1",
    }
    clone = Clone(tmp_path_factory.mktemp("clone"), tmp_path_factory.mktemp("cache"), small)
    clone.type("dvc repro")
    clone.commit("digits")
    yield clone
    clone.type("dvc queue stop --kill || true")


@pytest.mark.faults
@pytest.mark.parametrize("turn", range(int(os.environ.get("RETRACE_REPEAT", "1"))))
def test_sweep_of_twelve_is_twelve_parents(clone: Clone, turn: int) -> None:
    rates = ",".join(f"0.0{number}{turn + 1}" for number in range(10, 10 + SWEEP))
    output = clone.type(f"dvc exp run --queue -S 'lr={rates}'")
    names = [
        line.split("'")[1] for line in output.splitlines() if line.startswith("Queued experiment")
    ]
    assert len(names) == SWEEP
    clone.type("dvc queue start -j 4 > /dev/null 2>&1 &")
    until(
        lambda: statuses(clone, names) <= {"Success", "Failed"},
        900,
        "the end of the sweep",
        every_s=15,
    )
    assert statuses(clone, names) == {"Success"}

    store = f"sqlite:///{clone.path / 'mlflow.db'}"
    swept = [
        run for run in parents(store, clone.path) if run.data.tags.get("dvc.exp_name") in names
    ]
    assert sorted(run.data.tags["dvc.exp_name"] for run in swept) == sorted(names)
    named = [run for run in find_runs(store) if run.data.tags.get("dvc.exp_name") in names]
    stages = [run for run in named if "retrace.stage" in run.data.tags]
    counts = Counter(
        (run.data.tags["dvc.exp_name"], run.data.tags["retrace.stage"]) for run in stages
    )
    assert counts == Counter(
        (name, stage) for name in names for stage in ("train", "evaluate", "visualize")
    )
    assert {run.info.status for run in [*swept, *stages]} == {"FINISHED"}
    for run in swept:
        assert {"val_accuracy", "test_accuracy"} <= set(run.data.metrics)
        assert artifact(store, run, "reports/figures/tsne.png").startswith(b"\x89PNG")
        assert {"retrace.cached.download", "retrace.cached.preprocess"} <= set(run.data.tags)
    for run in stages:
        if run.data.tags["retrace.stage"] == "train":
            assert artifact(store, run, HISTORY).count(b"\n") == 3
    assert event_log.pending(clone.path / ".retrace/journal") == []
    assert integrity(clone.path / "mlflow.db") == "ok"


def statuses(clone: Clone, names: list[str]) -> set[str]:
    rows = [row.split() for row in clone.queue().splitlines()]
    return {row[-1] for row in rows if set(names) & set(row)}
