"""examples/regression: TOML and YAML, autolog in a stage; the README's commands typed in order."""

import json
import re
import shutil
import signal
import subprocess
from pathlib import Path

import pytest
import requests
from faults.servers import until, unused_port
from repository import ROOT
from stranger import Store, Stranger

EXAMPLE = ROOT / "examples/regression"
README = (EXAMPLE / "README.md").read_text()
COMMANDS = re.findall(r"^    \$ (.*)$", README, re.MULTILINE)
REPRO = "retrace dvc repro"
VERIFY = "retrace verify RUN_ID"
UI = "retrace ui"
STAGES = ["prepare", "train", "evaluate"]
EXPERIMENTS = {
    "slower": ("network.toml:lr", "0.003"),
    "wide": ("network.toml:width", "64"),
    "seeded": ("seed", "1"),
}
INSIDE = """
import retrace
with retrace.stage("evaluate") as run:
    run.log({"above": float((predicted > actual).mean())}, step=1)
"""
pytestmark = [pytest.mark.long, pytest.mark.xdist_group("regression")]


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Stranger:
    """Return the example after DVC's own `dvc repro`, killed once in train."""
    folder = tmp_path_factory.mktemp("plain")
    plain = Stranger(folder, tmp_path_factory.mktemp("cache"), EXAMPLE)
    shutil.copy(empty_store, folder / "mlflow.db")
    plain.type("git init --quiet && dvc init --quiet")
    plain.commit("start")
    plain.repro_after_kill("train.py", "dvc", "repro")
    return plain


@pytest.fixture(scope="module")
def tracked(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Stranger:
    """Type the README's commands; before the first `retrace dvc repro`, one that is killed."""
    folder = tmp_path_factory.mktemp("regression")
    tracked = Stranger(folder, tmp_path_factory.mktemp("cache"), EXAMPLE)
    shutil.copy(empty_store, folder / "mlflow.db")
    for command in COMMANDS:
        if command == REPRO:
            tracked.kill_in("train.py", *REPRO.split())
        if command == UI:
            tracked.wait_for_experiment("seeded")
            tracked.wait_for_uploads()
        elif command == VERIFY:
            run = Store(folder).stages(Store(folder).parent("seeded"))["prepare"]
            tracked.printed[VERIFY] = tracked.type(f"retrace verify {run.info.run_id}")
        else:
            tracked.printed[command] = tracked.type(command)
        if command == REPRO:
            tracked.printed["status"] = tracked.type("git status --short")
    return tracked


def test_git_shows_what_dvc_changes(plain: Stranger, tracked: Stranger) -> None:
    assert tracked.printed["status"] == plain.printed["status"]
    assert tracked.type("git show HEAD:dvc.lock") == plain.type("git show HEAD:dvc.lock")


def test_readme_shows_the_output(tracked: Stranger) -> None:
    (shown,) = re.findall(r"^    (validation: .*)$", README, re.MULTILINE)
    assert shown in tracked.printed[REPRO]


def test_each_experiment_is_a_run(store: Store) -> None:
    by_name = {run.data.tags.get("dvc.exp_name"): run for run in store.parents}
    assert set(by_name) == {None, *EXPERIMENTS}
    base = by_name[None].data.params
    assert base == {
        "seed": "0",
        "validation_share": "0.2",
        "network.toml:lr": "0.01",
        "network.toml:width": "16",
        "network.toml:epochs": "30",
    }
    for name, (key, value) in EXPERIMENTS.items():
        assert by_name[name].data.params == base | {key: value}
    assert {run.info.status for run in store.parents} == {"FINISHED"}


def test_each_attempt_is_a_run(store: Store) -> None:
    assert store.attempts(store.parent(None)) == [
        ("prepare", "FINISHED"),
        ("train", "KILLED"),
        ("train", "FINISHED"),
        ("evaluate", "FINISHED"),
    ]
    assert [stage for stage, _ in store.attempts(store.parent("wide"))] == STAGES[1:]
    assert [stage for stage, _ in store.attempts(store.parent("seeded"))] == STAGES


def test_cached_stage_is_linked(store: Store) -> None:
    prepare = store.stages(store.parent(None))["prepare"]
    for name in ("slower", "wide"):
        assert store.parent(name).data.tags["retrace.cached.prepare"] == prepare.info.run_id


def test_metrics_are_nested(store: Store, tracked: Stranger) -> None:
    """The leaderboard takes experiments that differ only in `seed` for repeats."""
    mae = {
        run.data.tags.get("dvc.exp_name"): run.data.metrics["validation.mae"]
        for run in store.parents
    }
    board = json.loads(tracked.type("retrace leaderboard --metric validation.mae --json"))
    repeats = (mae[None] + mae["seeded"]) / 2
    means = sorted([repeats, mae["slower"], mae["wide"]])
    assert [row["mean"] for row in board["rows"]] == pytest.approx(means)
    assert store.parent("wide").data.metrics.keys() >= {"train.mae", "train.r2", "validation.r2"}


def test_curve_is_the_plots(store: Store) -> None:
    loss = store.curve(store.stages(store.parent("wide"))["train"], "loss")
    assert [step for step, _ in loss] == list(range(30))
    assert loss[-1][1] < loss[0][1]
    assert "predictions.csv" in store.artifacts(store.parent("wide"))


def test_lineage_is_dvc_lock(store: Store, tracked: Stranger) -> None:
    store.check_lineage(store.parent("slower"), tracked.path)


def test_commands_know_the_runs(tracked: Stranger) -> None:
    assert "network.toml:lr" in tracked.printed["retrace compare HEAD slower"]
    traced = tracked.printed["retrace trace model.json"]
    for stage in ("train", "prepare"):
        assert f"─ {stage}" in traced
    assert "network.toml:lr=0.003" in traced
    assert "verified: " in tracked.printed[VERIFY]


def test_autologs_run_is_below_the_stage(store: Store) -> None:
    train = store.stages(store.parent("wide"))["train"]
    (own,) = store.below(train)
    assert own.info.status == "FINISHED"
    assert own.data.params["max_iter"] == "30"
    error = own.data.metrics["training_mean_absolute_error"]
    assert train.data.metrics["training_mean_absolute_error"] == error  # it has no metrics file


def test_artifact_is_a_logged_model(store: Store) -> None:
    wide = store.parent("wide")
    assert wide.outputs
    (output,) = wide.outputs.model_outputs
    model = store.client.get_logged_model(output.model_id)
    assert model.name == "diabetes"
    assert model.source_run_id == store.stages(wide)["train"].info.run_id
    files = store.client.list_logged_model_artifacts(model.model_id)
    assert [file.path for file in files] == ["model.json"]


def test_doctor_says_what_it_saw(tracked: Stranger) -> None:
    findings = tracked.findings()
    features, libraries = findings["features"]
    assert features.startswith("3 stages; params in params.yaml, network.toml; ")
    assert libraries == "MLflow in train"
    assert "not tracked" not in findings


def test_ui_has_the_runs(tracked: Stranger, store: Store) -> None:
    port = unused_port()
    address = f"http://127.0.0.1:{port}/api/2.0/mlflow/runs/search"
    query = {"experiment_ids": [store.parents[0].info.experiment_id]}
    with subprocess.Popen(
        ["retrace", "ui", "--port", str(port)],
        cwd=tracked.path,
        env=tracked.env,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:

        def names() -> set[str]:
            try:
                answer = requests.post(address, json=query, timeout=20).json()
            except requests.ConnectionError:
                return set()
            return {run["info"]["run_name"] for run in answer["runs"]}

        try:
            assert {*EXPERIMENTS, *STAGES} <= until(names, what="retrace ui")
        finally:
            process.send_signal(signal.SIGTERM)


def test_failed_stage_says_why(tracked: Stranger) -> None:
    tracked.type("retrace dvc exp run --name wrong -S seed=-1", code=255)
    store = Store(tracked.path)
    (run,) = [run for run in store.parents if run.data.params["seed"] == "-1"]
    ((stage, status),) = store.attempts(run)
    assert (stage, status, run.info.status) == ("prepare", "FAILED", "FAILED")
    tracked.type("git restore params.yaml")
    reason = store.below(run)[0].data.tags["retrace.error"]
    assert reason == "exit code 1: ValueError: expected non-negative integer"


def test_sweep_of_six(tracked: Stranger) -> None:
    words = "network.toml:width=4,8,32 network.toml:lr=0.005,0.02 --metric validation.mae"
    trials = tracked.sweep(words)
    keys = {"network.toml:width", "network.toml:lr"}
    assert all(trial["params"].keys() == keys for trial in trials)
    store = Store(tracked.path)
    best = store.parent(trials[0]["experiment"])
    assert best.data.metrics["validation.mae"] == trials[0]["value"]


def test_sync_adds_what_was_not_tracked(plain: Stranger) -> None:
    assert "completed: 1 experiment" in plain.type("retrace sync")
    assert "completed: 0 experiments" in plain.type("retrace sync")
    assert "skipped" not in plain.type("retrace sync --all-commits")
    parent = Store(plain.path).parent(None)
    assert parent.data.params["network.toml:width"] == "16"
    assert parent.data.metrics["validation.mae"] > 40


def test_stage_that_imports_retrace(plain: Stranger, tmp_path: Path, empty_store: Path) -> None:
    """Only this stage is tracked, by plain `dvc repro`."""
    shutil.copytree(plain.path, tmp_path / "copy")
    copy = Stranger(tmp_path / "copy", plain.cache)
    shutil.copy(empty_store, copy.path / "mlflow.db")
    with (copy.path / "evaluate.py").open("a") as program:
        program.write(INSIDE)
    copy.type("dvc repro evaluate")
    store = Store(copy.path)
    (parent,) = store.parents
    (evaluate,) = store.below(parent)
    assert store.curve(evaluate, "above")[0][0] == 1
