"""Measuring tracking, with stores and clones so small that it takes seconds."""

import os
import re
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import mlflow
import pytest
import stores
import tracking as benchmark
from clones import Clone
from repository import ROOT
from stub_clone import Stub
from table import Figure, row

from lab import paths
from retrace.errors import RetraceError
from retrace.store import run_tags
from retrace.tracking import stage


@pytest.fixture
def experiment_folder(folder: Path, empty_store: Path, beside: None) -> Path:
    """A folder whose store has an experiment with two stages, download and evaluate."""
    shutil.copy(empty_store, folder / "mlflow.db")
    with stage.stage("download"):
        paths.RAW.mkdir(parents=True)
        (paths.RAW / "digits.csv").write_text("1,2\n")
    with stage.stage("evaluate") as run:
        paths.METRICS.parent.mkdir()
        paths.METRICS.write_text('{"test_accuracy": 0.75}')
        run.metrics({"test_accuracy": 0.75})
        run.summary({"test_accuracy": 0.75})
    return folder


def test_metric_call_cost_on_event_log(tmp_path: Path) -> None:
    call, worst, sync = benchmark.metric(tmp_path, 50)
    assert (call.target, call.unit, call.n) == (20, "µs", 50)
    assert 0 < call.measured <= worst.measured
    assert sync.measured > 0
    (written,) = tmp_path.glob("*.jsonl")
    assert written.read_text().count('"kind": "metrics"') == 100


def test_grow_copies_distinct_experiments(experiment_folder: Path) -> None:
    before = stores.rows(experiment_folder / "mlflow.db")
    stores.grow(experiment_folder / "mlflow.db", 32)
    assert stores.runs(experiment_folder / "mlflow.db") == 33
    assert before <= stores.rows(experiment_folder / "mlflow.db")
    client = mlflow.MlflowClient(f"sqlite:///{experiment_folder / 'mlflow.db'}")
    runs = client.search_runs(
        [experiment.experiment_id for experiment in client.search_experiments()]
    )
    parents = {run.info.run_id: run for run in runs if "retrace.key" in run.data.tags}
    assert len({run.data.tags["retrace.key"] for run in parents.values()}) == 11
    assert len({run.data.metrics["test_accuracy"] for run in parents.values()}) == 11
    children = [run for run in runs if "retrace.stage" in run.data.tags]
    assert len({run.data.tags["mlflow.retrace.journal"] for run in children}) == 22
    for run in children:
        above = parents[run.data.tags["mlflow.parentRunId"]]
        own = run_tags.stage_run(above.data.tags, run.data.tags["retrace.stage"])
        assert own == run.info.run_id


def test_large_store_does_not_grow(experiment_folder: Path) -> None:
    stores.grow(experiment_folder / "mlflow.db", 2)
    assert stores.runs(experiment_folder / "mlflow.db") == 3


def test_starts_measured_on_both_stores(experiment_folder: Path, tmp_path: Path) -> None:
    figures = {
        figure.name: figure
        for figure in benchmark.many(tmp_path / "stores", experiment_folder, 60, n_times=2)
    }
    assert figures["starting a run and its parent, ratio of the second to the first"].target == 1.2
    assert (
        figures["starting a run whose parent exists, ratio of the second to the first"].target
        == 1.2
    )
    assert figures["the top 50 experiments by test accuracy"].target == 0.2
    assert {name for name in figures if name.endswith("60 runs")} == {
        "starting a run and its parent, 60 runs",
        "starting a run whose parent exists, 60 runs",
        "the whole upload of a small event log, 60 runs",
    }
    assert all(figure.measured > 0 for figure in figures.values())
    # Three turns of each, the first to open the database: a pair; a pair and a child; an upload.
    assert stores.runs(tmp_path / "stores" / "few" / "mlflow.db") == 3 + 3 * (2 + 3 + 2)
    assert stores.runs(tmp_path / "stores" / "lots" / "mlflow.db") == 60 + 3 * (2 + 3 + 2)
    assert stores.runs(experiment_folder / "mlflow.db") == 3
    assert "DVC_ROOT" not in os.environ


def test_missing_upload_is_reported(tmp_path: Path, experiment_folder: Path) -> None:
    shutil.rmtree(experiment_folder / ".retrace" / "journal" / "uploaded")
    with pytest.raises(RetraceError, match="has no uploaded event log of download"):
        benchmark.many(tmp_path / "stores", experiment_folder, 6, n_times=1)


def test_stage_runs_alternate_tracking(tmp_path: Path) -> None:
    clone = Stub(tmp_path, seconds=1.5)
    with_tracking, without, difference = benchmark.stage(clone, "train", 3)
    assert (with_tracking.measured, without.measured, difference.measured) == (2.5, 1.0, 1.5)
    assert difference.missed
    tracked = ["untracked" not in command for command in clone.commands]
    assert tracked == [False, True, True, False, False, True]
    (*_, difference) = benchmark.stage(clone, "evaluate", 1)
    assert (difference.name, difference.target) == ("tracking of evaluate on mnist", None)


def test_untracked_stage_writes_only_outputs(folder: Path) -> None:
    shutil.copytree(ROOT / "stages", folder / "stages")
    chosen = paths.PARAMS.read_text().replace("\ndataset: mnist", "\ndataset: digits")
    paths.PARAMS.write_text(chosen)
    before = {path.name for path in folder.iterdir()}
    command = [sys.executable, str(ROOT / "benchmarks" / "untracked.py"), "download"]
    subprocess.run(
        command, env=os.environ | {"PYTHONPATH": str(ROOT / "src")}, check=True, capture_output=True
    )
    assert {path.name for path in folder.iterdir()} == before | {"data"}
    assert [path.name for path in paths.RAW.iterdir()] == ["digits.csv"]


def test_clone_copies_working_tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("DVC_ROOT", str(ROOT))
    clone = Clone(tmp_path / "clone", "circles")
    assert re.findall(r"(?m)^dataset: (\w+)", (clone.path / paths.PARAMS).read_text()) == [
        "circles"
    ]
    assert (clone.path / "benchmarks" / "tracking.py").is_file()
    assert not {"MLFLOW_TRACKING_URI", "DVC_ROOT"} & clone.env.keys()
    clone.run("git", "diff", "--exit-code", "HEAD")
    with pytest.raises(RetraceError, match="exited with 128: fatal"):
        clone.run("git", "log", "nowhere")


@pytest.mark.parametrize(("again", "missed"), [(0, False), (2, True)])
def test_second_sync_changes_are_counted(experiment_folder: Path, again: int, missed: bool) -> None:
    class Syncing(Stub):
        def run(self, *command: str, **_: str) -> str:
            if benchmark.SYNC in command:
                n_rows = again if " ".join(command) in self.commands else 1
                with closing(sqlite3.connect("mlflow.db")) as store, store:
                    store.execute("UPDATE runs SET name = name || 'x' WHERE rowid <= ?", (n_rows,))
            return super().run(*command)

    uploaded = experiment_folder / ".retrace" / "journal" / "uploaded"
    lost = next(uploaded.glob("*-evaluate-*"))
    lost.rename(uploaded.parent / lost.name)
    figures = {figure.name: figure for figure in benchmark.sync(Syncing(experiment_folder))}
    assert figures["rows that the first sync changed"].measured == 2
    assert figures["rows that the second sync changed"].measured == 2 * again
    assert figures["rows that the second sync changed"].missed is missed
    killed = [path for path in uploaded.parent.glob("*.jsonl") if path.name != lost.name]
    assert [path.read_text().count('"kind": "end"') for path in killed] == [0]


def test_first_sync_must_change_rows(experiment_folder: Path) -> None:
    uploaded = experiment_folder / ".retrace" / "journal" / "uploaded"
    lost = next(uploaded.glob("*-evaluate-*"))
    lost.rename(uploaded.parent / lost.name)
    with pytest.raises(RetraceError, match="the first sync changed no row"):
        benchmark.sync(Stub(experiment_folder))


def test_row_marks_missed_target() -> None:
    assert (
        row(Figure("a call", 4.5678, "µs", 20_000, 20)) == "| a call | 20 µs | 4.568 µs | 20,000 |"
    )
    assert row(Figure("a call", 21, "µs", 1, 20)) == "| a call | 20 µs | 21 µs, MISSED | 1 |"
    assert row(Figure("rows", 123_456, "rows", 1)) == "| rows |  | 123,456 rows | 1 |"


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(("measured", "code"), [(20, 0), (21, 1)])
def test_main_exits_1_if_target_missed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], measured: float, code: int
) -> None:
    def fake_figures(*asked: object, **_: object) -> Iterator[Figure]:
        assert asked[1:] == ("metric", 7)
        yield Figure("a call", measured, "µs", 7, 20)

    monkeypatch.setattr(benchmark, "figures", fake_figures)
    monkeypatch.setattr(sys, "argv", ["tracking.py", "metric", "--n", "7"])
    with pytest.raises(SystemExit) as ended:
        benchmark.main()
    assert ended.value.code == code
    assert capsys.readouterr().out.splitlines()[0] == "| figure | target | measured | n |"


@pytest.mark.parametrize("arguments", [["--n", "7"], ["metric", "--n", "0"], ["speed"]])
def test_bad_arguments_are_refused(monkeypatch: pytest.MonkeyPatch, arguments: list[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["tracking.py", *arguments])
    with pytest.raises(SystemExit) as ended:
        benchmark.parsed()
    assert ended.value.code == 2
