"""`retrace sweep` in a clone, on digits: experiments, MLflow runs, kills, and leftovers."""

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import optuna
import psutil
import pytest
from faults.servers import until
from faults.stages import event_logs, find_runs
from mlflow import MlflowClient
from optuna.distributions import FloatDistribution
from repository import Clone

from retrace import event_log

pytestmark = [pytest.mark.long, pytest.mark.xdist_group("sweep")]

SMALL = {"dataset: mnist": "dataset: digits", "epochs: 5": "epochs: 2", "threads: 2": "threads: 1"}


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Clone:
    """A repository with uncommitted changes."""
    clone = Clone(tmp_path_factory.mktemp("clone"), tmp_path_factory.mktemp("cache"), SMALL)
    softmax = clone.path / "src/lab/models/networks/softmax.py"
    softmax.write_text(softmax.read_text() + "# not committed\n")
    (clone.path / "src/retrace/added.py").write_text("# nor this\n")
    return clone


@pytest.fixture(autouse=True)
def _untouched(clone: Clone) -> Iterator[None]:
    """Check that no sweep changes the work tree, or leaves a process, a folder or a DVC ref."""
    before = clone.type("git status --porcelain; git diff; git stash list")
    yield
    assert clone.type("git status --porcelain; git diff; git stash list") == before
    assert not list((clone.path / ".dvc/tmp/exps").glob("**/tmp*"))
    assert not list((clone.path / ".retrace/sweeps").glob("*/tree-*"))
    assert not [process for process in psutil.process_iter(["cwd"]) if is_in(process, clone.path)]
    assert not clone.type("git for-each-ref refs/exps/exec refs/exps/stash")


def is_in(process: psutil.Process, folder: Path) -> bool:
    return (process.info["cwd"] or "").startswith(f"{folder}{os.sep}.")


def store(clone: Clone) -> str:
    return f"sqlite:///{clone.path / 'mlflow.db'}"


def named(clone: Clone, name: str) -> list[str]:
    """Return the experiments of a sweep."""
    listed = clone.type(f"git for-each-ref --format='%(refname:lstrip=4)' 'refs/exps/*/*/{name}-*'")
    return sorted(listed.split())


def trials(clone: Clone, name: str) -> list[optuna.trial.FrozenTrial]:
    return optuna.load_study(
        study_name=name, storage=f"sqlite:///{clone.path / '.retrace/sweeps.db'}"
    ).trials


@contextmanager
def sweeping(clone: Clone, *words: str) -> Iterator["subprocess.Popen[str]"]:
    """Run a sweep in the background; wait for its end."""
    with subprocess.Popen(
        ["retrace", "sweep", *words],
        cwd=clone.path,
        env=clone.env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        yield process


def test_processes_share_one_sweep(clone: Clone) -> None:
    words = ("lr=0.001,0.005", "--name", "pair")
    with sweeping(clone, *words) as other:
        clone.run("retrace", "sweep", *words)
        output, _ = other.communicate(timeout=300)
        assert other.returncode == 0, output
    output = clone.run("retrace", "sweep", *words, "--json")
    # The output also has what is printed on stderr.
    document = json.loads(output[output.index("{") : output.rindex("}") + 1])
    assert [trial["state"] for trial in document["trials"]] == ["complete"] * 2
    assert {trial["params"]["lr"] for trial in document["trials"]} == {0.001, 0.005}
    assert named(clone, "pair") == ["pair-0", "pair-1"]
    best = max(document["trials"], key=lambda trial: trial["value"])
    assert document["best"]["value"] == best["value"]
    for trial in document["trials"]:
        commit = clone.type(
            f"git for-each-ref --format='%(objectname)' 'refs/exps/*/*/{trial['experiment']}'"
        ).strip()
        metrics = json.loads(clone.type(f"git show {commit}:reports/metrics.json"))
        assert metrics["val_accuracy"] == trial["value"]
        assert "# not committed" in clone.type(
            f"git show {commit}:src/lab/models/networks/softmax.py"
        )
        assert "# nor this" in clone.type(f"git show {commit}:src/retrace/added.py")
        assert set(trial["curve"]) == {"1", "2"}, "also of what came from DVC's cache"
    (above,) = find_runs(store(clone), **{"sweep.summary": "pair"})
    below = find_runs(store(clone), sweep="pair")
    assert sorted(run.info.run_name or "" for run in below) == ["pair-0", "pair-1"]
    assert {run.data.tags["mlflow.parentRunId"] for run in below} == {above.info.run_id}
    assert {run.info.status for run in [above, *below]} == {"FINISHED"}
    assert above.data.metrics == {"val_accuracy": best["value"]}
    assert above.data.params == {"lr": "0.001,0.005"}
    assert above.data.tags["retrace.sweep.best"] == document["best"]["experiment"]
    assert above.data.tags["retrace.sweep.best.lr"] == str(best["params"]["lr"])
    assert [file.path for file in MlflowClient(store(clone)).list_artifacts(above.info.run_id)] == [
        "pair.png"
    ]


def test_cached_experiment_joins_sweep(
    clone: Clone,
) -> None:
    output = clone.run("retrace", "sweep", "lr=0.001,0.005", "--name", "cached")
    assert "to apply the best trial to the workspace: dvc exp apply cached-" in output
    assert "the same as" not in output
    below = find_runs(store(clone), sweep="cached")
    assert {run.data.params["lr"] for run in below} == {"0.001", "0.005"}
    assert named(clone, "cached") == ["cached-0", "cached-1"]


def wait_for_epochs(clone: Clone, name: str) -> event_log.Event:
    """Wait for some epochs of the experiment `name`; return the first event of its training."""

    def begun() -> event_log.Event | None:
        for path in event_logs(clone.path):
            events = event_log.read(path)
            is_it = (
                events[0]["stage"] == "train"
                and events[0]["experiment"].get("dvc.exp_name") == name
            )
            if (
                is_it
                and not event_log.end_of(events)
                and sum("val_loss" in e.get("values", {}) for e in events) > 3
            ):
                return events[0]
        return None

    return until(begun, 300, f"some epochs of {name}")


def test_killed_sweep_resumes_its_trial(
    clone: Clone,
) -> None:
    words = ("lr=log:1e-3..1e-2", "epochs=60", "--trials", "2", "--name", "killed")
    with sweeping(clone, *words) as process:
        wait_for_epochs(clone, "killed-0")
        process.kill()
    (before,) = trials(clone, "killed")
    with sweeping(clone, *words) as process:
        wait_for_epochs(clone, "killed-1")
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "killed: 1 of 2 trials are done, 1 trial interrupted; the same command" in output
    assert not list((clone.path / ".retrace/sweeps/killed").glob("tree-*"))
    assert "killed: 1 of 2 trials are done" in clone.run("retrace", "sweep", *words)
    first, second = trials(clone, "killed")
    assert [first.state.name, second.state.name] == ["COMPLETE", "COMPLETE"]
    assert (first.number, first.params) == (0, before.params)
    assert set(first.intermediate_values) == set(second.intermediate_values) == set(range(1, 61))
    assert named(clone, "killed") == ["killed-0", "killed-1"]
    ends = [event_log.read(path) for path in event_logs(clone.path)]
    trainings = [
        (events[0]["experiment"].get("dvc.exp_name"), event_log.end_of(events)) for events in ends
    ]
    statuses = [
        (end or {})["status"] for name, end in trainings if name in ("killed-0", "killed-1")
    ]
    assert statuses.count("KILLED") == 2
    resumed = [
        run for run in find_runs(store(clone), stage="train") if "retrace.resumed" in run.data.tags
    ]
    assert len(resumed) == 2
    assert not list((clone.path / ".retrace/checkpoints").iterdir())


def test_pruned_trial_keeps_its_curve(clone: Clone) -> None:
    place = f"sqlite:///{clone.path / '.retrace/sweeps.db'}"
    study = optuna.create_study(
        storage=place, study_name="hopeless", direction="maximize", load_if_exists=True
    )
    for number in range(1, 6):
        good = optuna.trial.create_trial(
            params={"lr": 1e-3 * number},
            distributions={"lr": FloatDistribution(1e-7, 1e-2, log=True)},
            intermediate_values=dict.fromkeys(range(1, 61), 0.99),
            user_attrs={"experiment": "pair-0"},
            value=0.99,
        )
        study.add_trial(good)
    study.enqueue_trial({"lr": 1e-7})
    words = ("lr=log:1e-7..1e-2", "epochs=60", "--trials", "6", "--name", "hopeless")
    output = clone.run("retrace", "sweep", *words)
    assert "hopeless-5  pruned  lr=1e-07" in output
    last = trials(clone, "hopeless")[-1]
    assert last.state.name == "PRUNED"
    assert 20 <= len(last.intermediate_values) < 60
    (run,) = [
        run for run in find_runs(store(clone), stage="train") if "retrace.pruned" in run.data.tags
    ]
    assert run.info.status == "KILLED"
    assert run.data.tags["retrace.pruned"] == last.user_attrs["reason"]
    assert named(clone, "hopeless") == []
    assert not list((clone.path / ".retrace/checkpoints").iterdir())


def test_failing_sweep_stops_with_reason(clone: Clone) -> None:
    words = (
        "model=torchvision",
        "models.torchvision.name=nosuch1,nosuch2,nosuch3,nosuch4",
        "--name",
        "broken",
    )
    output = clone.run("retrace", "sweep", *words, code=2)
    assert "broken-0  FAILED  models.torchvision.name=nosuch1" in output
    (line,) = [line for line in output.splitlines() if "all of the first 3 trials failed" in line]
    assert "nosuch3" in line
    assert ".retrace/sweeps/broken/broken-2.log" in line
    assert named(clone, "broken") == []


def test_name_of_other_experiments_is_refused(clone: Clone) -> None:
    head = clone.type("git rev-parse HEAD").strip()
    clone.type(f"git update-ref refs/exps/{head[:2]}/{head[2:]}/taken-0 {head}")
    for _ in range(2):
        output = clone.run("retrace", "sweep", "lr=0.001,0.02", "--name", "taken", code=2)
        assert output.startswith("taken: ")
        for part in ("taken-0, ", "sqlite:///", "`dvc exp remove`", "--name"):
            assert part in output
        assert len(output.splitlines()) == 1
    assert named(clone, "taken") == ["taken-0"]
