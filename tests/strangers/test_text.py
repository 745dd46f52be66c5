"""Text: DVCLive in the stages of `foreach`, `vars`, a shell stage, a queue of four."""

import json
import re
import shutil
from pathlib import Path

import pytest
from repository import ROOT
from stranger import Store, Stranger

SOURCE = ROOT / "tests/strangers/text"
REPRO = ("retrace", "dvc", "repro")
TRAIN = ["train@words", "train@letters"]
STAGES = ["clean", *TRAIN, "report"]
RATES = ["0.02", "0.05", "0.2", "0.5"]
INSIDE = """
import retrace
with retrace.stage(f"train@{name}") as run:
    run.log({"right": sum(a == b for a, b in predicted)})
"""
pytestmark = [pytest.mark.long, pytest.mark.xdist_group("text")]


def text(folder: Path, cache: Path) -> Stranger:
    tree = Stranger(folder, cache, SOURCE)
    tree.type("git init --quiet && dvc init --quiet")
    tree.commit("start")
    return tree


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Stranger:
    """Return the repository after DVC's own `dvc repro`, killed once."""
    plain = text(tmp_path_factory.mktemp("plain"), tmp_path_factory.mktemp("cache"))
    plain.repro_after_kill("words", *REPRO[1:])
    return plain


@pytest.fixture(scope="module")
def tracked(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Stranger:
    """Return the repository after `retrace dvc repro`, killed once, and five experiments.

    The store does not answer when stage `report` runs once more.
    """
    tracked = text(tmp_path_factory.mktemp("text"), tmp_path_factory.mktemp("cache"))
    shutil.copy(empty_store, tracked.path / "mlflow.db")
    tracked.repro_after_kill("words", *REPRO)
    rates = ",".join(RATES)
    tracked.type(f"dvc exp run --queue --name rate -S lr={rates}")
    tracked.type("retrace dvc queue start")
    for number in range(len(RATES)):
        tracked.wait_for_experiment(f"rate-{number + 1}")
    tracked.type("retrace dvc exp run --name here -S epochs=5")
    tracked.wait_for_uploads()
    tracked.repro_without_store("report")
    return tracked


def test_git_shows_what_dvc_changes(plain: Stranger, tracked: Stranger) -> None:
    assert tracked.printed["status"] == plain.printed["status"]
    for file in ("dvc.lock", "dvc.yaml"):
        assert tracked.type(f"git show HEAD:{file}") == plain.type(f"git show HEAD:{file}")


def test_each_experiment_is_a_run(store: Store) -> None:
    params = {run.data.tags.get("dvc.exp_name"): run.data.params for run in store.parents}
    queued = {f"rate-{number}": rate for number, rate in enumerate(RATES, 1)}
    assert params == {
        None: {"lr": "0.1", "epochs": "4"},
        "here": {"lr": "0.1", "epochs": "5"},
    } | {name: {"lr": rate, "epochs": "4"} for name, rate in queued.items()}
    assert {run.info.status for run in store.parents} == {"FINISHED"}


def test_each_attempt_is_a_run(store: Store) -> None:
    assert store.attempts(store.parent(None)) == [
        ("clean", "FINISHED"),
        ("train@words", "KILLED"),
        *((stage, "FINISHED") for stage in [*TRAIN, "report"]),
    ]
    for number in range(len(RATES)):
        below = store.attempts(store.parent(f"rate-{number + 1}"))
        assert below == [(stage, "FINISHED") for stage in TRAIN]


def test_cached_stages_are_linked(store: Store) -> None:
    """The predictions are the same in all experiments, so `report` runs once."""
    made_by = store.stages(store.parent(None))
    for name in ("rate-1", "rate-4"):
        tags = store.parent(name).data.tags
        for stage in ("clean", "report"):
            assert tags[f"retrace.cached.{stage}"] == made_by[stage].info.run_id


def test_curves_are_dvclives(store: Store, tracked: Stranger) -> None:
    for name, epochs in ((None, 4), ("rate-2", 4), ("here", 5)):
        for stage in TRAIN:
            loss = store.curve(store.stages(store.parent(name))[stage], "loss")
            assert [step for step, _ in loss] == list(range(epochs))
            assert loss == sorted(loss, key=lambda point: -point[1])
    table = (tracked.path / "live/words/plots/metrics/loss.tsv").read_text().splitlines()
    here = store.curve(store.stages(store.parent("here"))["train@words"], "loss")
    assert [f"{step}\t{value}" for step, value in here] == table[1:]


def test_metrics_have_names_of_stages(store: Store) -> None:
    metrics = store.parent("rate-4").data.metrics
    assert metrics["correct"] == 18.0
    assert metrics["train:at:words/accuracy"] == metrics["train:at:letters/accuracy"] == 0.9
    assert metrics["train:at:words/loss"] == pytest.approx(0.0924, abs=1e-4)


def test_code_patch_has_no_files_of_dvclive(store: Store) -> None:
    stages = store.stages(store.parent("rate-3"))
    for stage in TRAIN:
        file = store.client.download_artifacts(stages[stage].info.run_id, "code.patch")
        patch = Path(file).read_text()
        assert "+lr: 0.2" in patch
        changed = re.findall(r"^diff --git a/(\S+)", patch, re.MULTILINE)
        assert {*changed} - {"dvc.yaml"} == {"params.yaml"}


def test_lineage_is_dvc_lock(store: Store, tracked: Stranger) -> None:
    store.check_lineage(store.parent("here"), tracked.path)


def test_store_without_answer(store: Store, tracked: Stranger) -> None:
    assert "retrace sync" in tracked.printed["dead"]
    assert "uploaded: 1 event log;" in tracked.printed["sync"]
    assert ("report", "FINISHED") in store.attempts(store.parent("here"))


def test_trace_both_ways(store: Store, tracked: Stranger) -> None:
    traced = tracked.type("retrace trace report.txt")
    for name in ("report", *TRAIN, "clean"):
        assert f"─ {name}" in traced
    run = store.stages(store.parent("rate-1"))["train@words"].info.run_id
    traced = tracked.type(f"retrace trace {run}")
    assert "model-words.json" in traced


def test_compare_and_leaderboard(tracked: Stranger) -> None:
    compared = json.loads(tracked.type("retrace compare rate-1 rate-4 --json"))
    assert compared["params"] == {"lr": ["0.02", "0.5"]}
    board = tracked.type("retrace leaderboard --metric train:at:words/loss --json")
    best, *_ = json.loads(board)["rows"]
    assert best["mean"] == pytest.approx(0.0924, abs=1e-4)


def test_primary_metric_is_a_setting(tracked: Stranger) -> None:
    missing = tracked.run("retrace", "leaderboard", code=2)
    assert missing.startswith("--metric is missing; should be one of ")
    (tracked.path / "retrace.toml").write_text('metrics = {primary = "correct"}\n')
    assert "correct" in tracked.type("retrace leaderboard").splitlines()[0]
    (tracked.path / "retrace.toml").unlink()


def test_run_is_verified(store: Store, tracked: Stranger) -> None:
    run = store.stages(store.parent(None))["clean"].info.run_id
    assert "verified: " in tracked.type(f"retrace verify {run}")


def test_doctor_says_what_it_saw(tracked: Stranger) -> None:
    findings = tracked.findings()
    features, libraries = findings["features"]
    assert features.startswith("4 stages; 2 of foreach or matrix; 1 with several commands; ")
    assert libraries == "DVCLive in train@words, train@letters"
    assert findings["pipeline"] == ["all stages are up to date"]
    assert "not tracked" not in findings


def test_sweep_of_six(tracked: Stranger) -> None:
    """No stage declares DVCLive's file: its keys have the names of its folders."""
    trials = tracked.sweep("lr=log:0.02..0.5 --metric words/loss")
    best = Store(tracked.path).parent(trials[0]["experiment"])
    assert best.data.metrics["train:at:words/loss"] == trials[0]["value"]


def test_sync_adds_what_was_not_tracked(plain: Stranger, empty_store: Path) -> None:
    shutil.copy(empty_store, plain.path / "mlflow.db")
    assert "completed: 1 experiment" in plain.type("retrace sync")
    assert "completed: 0 experiments" in plain.type("retrace sync")
    parent = Store(plain.path).parent(None)
    assert parent.data.params == {"lr": "0.1", "epochs": "4"}
    assert parent.data.metrics["correct"] == 18.0


def test_stage_that_imports_retrace(plain: Stranger, tmp_path: Path, empty_store: Path) -> None:
    """Only this stage is tracked, by plain `dvc repro`."""
    shutil.copytree(plain.path, tmp_path / "copy")
    copy = Stranger(tmp_path / "copy", plain.cache)
    shutil.copy(empty_store, copy.path / "mlflow.db")
    with (copy.path / "train.py").open("a") as program:
        program.write(INSIDE)
    copy.type("dvc repro train@words")
    copy.wait_for_uploads()
    store = Store(copy.path)
    (parent,) = store.parents
    (train,) = store.below(parent)
    assert train.data.tags["retrace.stage"] == "train@words"
    assert train.data.metrics["right"] == 9.0
