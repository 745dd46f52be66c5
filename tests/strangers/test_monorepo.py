"""A monorepo: DVC in a subfolder, two dvc.yaml, `wdir`, `matrix`, an import, files in folders."""

import json
import shutil
from pathlib import Path

import pytest
from repository import ROOT
from stranger import Store, Stranger

SOURCE = ROOT / "tests/strangers/monorepo"
REPRO = ("retrace", "dvc", "repro", "--all-pipelines")
BUNDLE, CHECK = "serving/dvc.yaml:bundle", "serving/dvc.yaml:check"
STAGES = ["split", "fit@north", "fit@south", BUNDLE, CHECK]
ROWS = [
    f"{name},{day},{day * (7 + i) % 5}"
    for day in range(9)
    for i, name in enumerate(("north", "south"))
]
INSIDE = """
import retrace
with retrace.stage(f"fit@{station}") as run:
    for step, error in enumerate(errors):
        run.log({"error": error}, step)
"""
pytestmark = [pytest.mark.long, pytest.mark.xdist_group("monorepo")]


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a repository of DVC with the readings that the monorepo imports."""
    folder = tmp_path_factory.mktemp("registry")
    (folder / "readings.csv").write_text("\n".join(["station,day,value", *ROWS, ""]))
    registry = Stranger(folder, tmp_path_factory.mktemp("cache"))
    registry.type("git init --quiet && dvc init --quiet && dvc add --quiet readings.csv")
    registry.commit("readings")
    return folder


def forecast(root: Path, cache: Path, registry: Path) -> Stranger:
    """Return the folder `services/forecast` of a new monorepo."""
    folder = root / "services/forecast"
    folder.mkdir(parents=True)
    (root / "README.md").write_text("Several services.\n")
    forecast = Stranger(folder, cache, SOURCE)
    (folder / "work").mkdir()
    (folder / "work/.gitkeep").touch()
    forecast.type("git init --quiet ../.. && dvc init --quiet --subdir && mkdir data")
    forecast.type(f"dvc import --quiet {registry} readings.csv --out data/readings.csv")
    forecast.commit("start")
    return forecast


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory, registry: Path) -> Stranger:
    """Return the monorepo after DVC's own `dvc repro`, killed once."""
    root = tmp_path_factory.mktemp("plain")
    plain = forecast(root, tmp_path_factory.mktemp("cache"), registry)
    plain.repro_after_kill("south", *REPRO[1:], program="python3")
    return plain


@pytest.fixture(scope="module")
def tracked(
    tmp_path_factory: pytest.TempPathFactory, empty_store: Path, registry: Path
) -> Stranger:
    """Return the monorepo after `retrace dvc repro`, killed once, and three experiments.

    The store does not answer when stage `check` runs once more.
    """
    root = tmp_path_factory.mktemp("monorepo")
    tracked = forecast(root, tmp_path_factory.mktemp("cache"), registry)
    shutil.copy(empty_store, tracked.path / "mlflow.db")
    tracked.repro_after_kill("south", *REPRO, program="python3")
    exp_run = "exp run --all-pipelines --name"
    tracked.type(f"dvc {exp_run} queued --queue -S window=4 && retrace dvc queue start")
    tracked.type(f"retrace dvc {exp_run} temporary --temp -S window=2")
    tracked.wait_for_experiment("queued")
    tracked.type(f"retrace dvc {exp_run} here -S window=5")
    tracked.wait_for_uploads()
    tracked.repro_without_store(CHECK)
    return tracked


def test_dvc_lock_and_git_status_are_dvcs(plain: Stranger, tracked: Stranger) -> None:
    assert tracked.printed["status"] == plain.printed["status"]
    for file in ("dvc.lock", "serving/dvc.lock"):
        locks = [tree.type(f"git show HEAD:./{file}") for tree in (plain, tracked)]
        assert locks[0] == locks[1]


def test_each_experiment_is_a_run(store: Store) -> None:
    windows = {run.data.tags.get("dvc.exp_name"): run.data.params for run in store.parents}
    assert windows == {
        None: {"window": "3"},
        "queued": {"window": "4"},
        "temporary": {"window": "2"},
        "here": {"window": "5"},
    }
    assert {run.info.status for run in store.parents} == {"FINISHED"}


def test_each_attempt_is_a_run(store: Store) -> None:
    attempts = store.attempts(store.parent(None))
    assert ("fit@south", "KILLED") in attempts
    assert sorted(stage for stage, status in attempts if status == "FINISHED") == sorted(STAGES)
    for name in ("queued", "temporary"):
        below = sorted(store.attempts(store.parent(name)))
        assert below == [(stage, "FINISHED") for stage in sorted(STAGES) if stage != "split"]


def test_cached_stage_is_linked(store: Store) -> None:
    split = store.stages(store.parent(None))["split"]
    for name in ("queued", "temporary", "here"):
        assert store.parent(name).data.tags["retrace.cached.split"] == split.info.run_id


def test_metrics_have_names_of_stages(store: Store) -> None:
    parent = store.parent("temporary")
    assert parent.data.metrics["fit:at:south/mae"] == 1.5
    assert parent.data.metrics["fit:at:south/worst.value"] == 3.0
    assert parent.data.metrics["serving/dvc.yaml:check/bytes"] == 66.0
    assert store.stages(parent)["fit@south"].data.metrics["worst.value"] == 3.0


def test_lineage_is_dvc_lock(store: Store, tracked: Stranger) -> None:
    store.check_lineage(store.parent("here"), tracked.path)


def test_store_without_answer(store: Store, tracked: Stranger) -> None:
    assert "uploaded: 1 event log;" in tracked.printed["sync"]
    assert store.attempts(store.parent("here")).count((CHECK, "FINISHED")) == 2


def test_trace_in_a_subfolder(store: Store, tracked: Stranger) -> None:
    traced = tracked.type("cd serving && retrace trace bundle.json")
    assert traced.splitlines()[0].startswith("serving/bundle.json  ")
    for name in (BUNDLE, "fit@north", "fit@south", "split"):
        assert f"─ {name}" in traced
    assert "1 code file, same here" in traced
    assert "not produced" not in traced
    run = store.stages(store.parent("queued"))["fit@north"].info.run_id
    assert "models/north.json" in tracked.type(f"retrace trace {run}")


def test_compare_and_leaderboard(tracked: Stranger) -> None:
    compared = json.loads(tracked.type("retrace compare HEAD here queued --json"))
    assert compared["params"] == {"window": ["3", "5", "4"]}
    board = tracked.type("retrace leaderboard --metric fit:at:north/mae --json")
    assert [row["mean"] for row in json.loads(board)["rows"]] == sorted(
        run.data.metrics["fit:at:north/mae"] for run in Store(tracked.path).parents
    )


def test_run_is_verified(store: Store, tracked: Stranger) -> None:
    run = store.stages(store.parent("queued"))["fit@north"].info.run_id
    assert "verified: " in tracked.type(f"retrace verify {run}")


def test_doctor_says_what_it_saw(tracked: Stranger) -> None:
    findings = tracked.findings()
    (features,) = findings["features"]
    words = ("5 stages in 2 dvc.yaml", "2 of foreach or matrix", "1 with wdir", "1 always_changed")
    assert {*words} <= {*features.split("; ")}
    assert findings["pipeline"] == ["all stages are up to date"]
    assert "not tracked" not in findings


def test_sweep_of_six(tracked: Stranger) -> None:
    trials = tracked.sweep("window=1..6 --metric fit:at:north/mae")
    assert {trial["params"]["window"] for trial in trials} == {*range(1, 7)}
    best = Store(tracked.path).parent(trials[0]["experiment"])
    assert best.data.metrics["fit:at:north/mae"] == trials[0]["value"]


def test_sync_adds_what_was_not_tracked(plain: Stranger, empty_store: Path) -> None:
    shutil.copy(empty_store, plain.path / "mlflow.db")
    assert "completed: 1 experiment" in plain.type("retrace sync")
    assert "completed: 0 experiments" in plain.type("retrace sync")
    parent = Store(plain.path).parent(None)
    assert parent.data.params == {"window": "3"}
    assert parent.data.metrics["serving/dvc.yaml:check/bytes"] == 81.0


def test_stage_that_imports_retrace(plain: Stranger, tmp_path: Path, empty_store: Path) -> None:
    """Only this stage is tracked, by plain `dvc repro`."""
    shutil.copytree(plain.path.parents[1], tmp_path / "copy")
    copy = Stranger(tmp_path / "copy/services/forecast", plain.cache)
    shutil.copy(empty_store, copy.path / "mlflow.db")
    with (copy.path / "fit.py").open("a") as program:
        program.write(INSIDE)
    copy.type("dvc repro fit@north")
    copy.wait_for_uploads()
    store = Store(copy.path)
    (parent,) = store.parents
    (fit,) = store.below(parent)
    assert fit.data.tags["retrace.stage"] == "fit@north"
    assert [step for step, _ in store.curve(fit, "error")] == list(range(6))
