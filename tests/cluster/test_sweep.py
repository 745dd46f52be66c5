"""`retrace sweep --on cluster` on two nodes, in a repository that knows nothing of retrace."""

import json
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import optuna
import pytest
from cluster.conftest import Cluster
from faults.servers import until
from optuna.distributions import FloatDistribution
from stranger import Project

FIT = """
import json, os, pathlib, sys, time

lr, pause = (float(word) for word in sys.argv[1:])
if lr > 50:
    sys.exit("lr is too high")
folder = os.environ.get("RETRACE_CHECKPOINTS")
saved = pathlib.Path(folder, f"{lr}-{pause}.csv") if folder else None
before = saved.read_text() if saved and saved.exists() else "step,loss\\n"
first = before.count("\\n")
if saved:
    saved.parent.mkdir(exist_ok=True, parents=True)
    saved.with_suffix(".begun").open("a").write(f"{first}\\n")
error = (lr - 0.3) ** 2
with open("curve.csv", "w") as file:
    file.write(before)
    for step in range(first, 10):
        file.write(f"{step},{error + 1 / step}\\n")
        file.flush()
        if saved:
            saved.write_text(open("curve.csv").read())
        time.sleep(pause)
json.dump({"loss": error}, open("scores.json", "w"))
"""
DVC_YAML = """
stages:
  fit:
    cmd: python fit.py ${lr} ${pause}
    deps: [fit.py]
    metrics: [scores.json]
    plots: [curve.csv: {x: step}]
"""
FILES = {
    "fit.py": FIT,
    "dvc.yaml": DVC_YAML,
    "params.yaml": "lr: 0.9\npause: 0\n",
    ".gitignore": "mlflow.db*\n",
}
STEPS = range(1, 10)
WITHIN_S = 60.0  # for the trial of a dead node to go on
pytestmark = [pytest.mark.long, pytest.mark.xdist_group("ray")]


@pytest.fixture(scope="module")
def project(
    cluster: Cluster, tmp_path_factory: pytest.TempPathFactory, empty_store: Path
) -> Project:
    """Return a repository whose pipeline ran once, with a git remote and a DVC remote."""
    folder = tmp_path_factory.mktemp("stranger")
    project = Project(folder, tmp_path_factory.mktemp("cache"), empty_store, {}, FILES)
    project.env |= cluster.env
    remotes = tmp_path_factory.mktemp("remotes")
    project.type(f"git init --quiet --bare {remotes / 'git'}")
    project.type(f"git remote add origin {remotes / 'git'}")
    project.type(f"dvc remote add --default team {remotes / 'dvc'}")
    project.type("git config user.name ann && git config user.email ann@localhost")
    project.type("dvc repro --quiet")
    project.commit("reproduced")
    project.type("git push --quiet origin HEAD && dvc push --quiet")
    return project


def sweep(project: Project, *words: str, code: int = 0) -> dict[str, Any]:
    """Run a sweep and return its document."""
    output = project.run("retrace", "sweep", *words, "--metric", "loss", "--json", code=code)
    return json.loads(output[output.index("{\n") : output.rindex("}") + 1])


def add_trials(project: Project, name: str, lr_max: float) -> None:
    """Add ten complete trials to a new sweep: after ten, TPE no longer proposes at random."""
    study = optuna.create_study(
        storage=f"sqlite:///{project.path / '.retrace/sweeps.db'}",
        study_name=name,
        direction="minimize",
    )
    for number in range(10):
        lr = 0.3 + number / 100
        good = optuna.trial.create_trial(
            params={"lr": lr},
            distributions={"lr": FloatDistribution(0.0, lr_max)},
            intermediate_values={step: 1 / step for step in STEPS},
            user_attrs={"experiment": f"{name}-{number}"},
            value=(lr - 0.3) ** 2,
        )
        study.add_trial(good)


def without_names(document: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        {key: trial[key] for key in ("number", "state", "value", "params", "curve")}
        for trial in document["trials"]
    ]


def test_grid_is_that_of_this_machine(project: Project) -> None:
    here = sweep(project, "lr=0.1,0.2", "--name", "here")
    there = sweep(project, "lr=0.1,0.2", "--on", "cluster", "--name", "there")
    assert without_names(there) == without_names(here)
    assert there["best"]["flags"] == here["best"]["flags"]
    assert all(len(trial["curve"]) == len(STEPS) for trial in there["trials"])
    assert {"there-0", "there-1"} <= set(project.type("dvc exp list --name-only").split())
    pushed = project.type("git ls-remote origin 'refs/exps/*'")
    assert {"there-0", "there-1"} <= {line.rpartition("/")[2] for line in pushed.splitlines()}


def test_proposals_are_those_of_this_machine(project: Project) -> None:
    documents: list[dict[str, Any]] = []
    for name, where in (("tpe", ()), ("tpe_there", ("--on", "cluster", "--jobs", "1"))):
        add_trials(project, name, lr_max=1.0)
        documents.append(sweep(project, "lr=0.0..1.0", "--trials", "12", "--name", name, *where))
    here, there = documents
    assert without_names(there) == without_names(here)
    assert [trial["state"] for trial in there["trials"]] == ["complete"] * 12


def test_bad_trial_is_pruned(project: Project) -> None:
    add_trials(project, "hopeless", lr_max=40.0)
    study = optuna.load_study(
        study_name="hopeless", storage=f"sqlite:///{project.path / '.retrace/sweeps.db'}"
    )
    study.enqueue_trial({"lr": 39.0})
    words = ("lr=0.0..40.0", "pause=3", "--trials", "11", "--name", "hopeless")
    last = sweep(project, *words, "--on", "cluster")["trials"][-1]
    assert last["state"] == "pruned"
    assert 3 <= len(last["curve"]) < len(STEPS)
    assert "hopeless-10" not in project.type("git ls-remote origin")


def test_failed_trial_has_its_reason(project: Project) -> None:
    words = ("lr=51.0..60.0", "--trials", "1", "--name", "failing", "--metric", "loss")
    output = project.run("retrace", "sweep", *words, "--on", "cluster", code=2)
    assert "failing-0  FAILED" in output
    assert "lr is too high" in output
    log = project.path / ".retrace/sweeps/failing/failing-0.log"
    assert "lr is too high" in log.read_text()
    assert str(log.relative_to(project.path)) in output


def test_trial_of_a_dead_node_goes_on(project: Project, cluster: Cluster) -> None:
    words = ("lr=0.25,0.26", "pause=4", "--name", "dead", "--metric", "loss")
    command = ("retrace", "sweep", *words, "--on", "cluster", "--json")
    saved = [project.path / f".retrace/checkpoints/{lr}-4.0.csv" for lr in (0.25, 0.26)]
    with subprocess.Popen(
        command, cwd=project.path, env=project.env, stdout=subprocess.PIPE, text=True
    ) as process:
        until(lambda: all(map(n_steps, saved)), 300.0, "steps of both trials")
        cluster.second.kill()
        killed = time.monotonic()
        cluster.second.stop()
        cluster.join()
        until(lambda: cluster.second.processes("fit.py"), WITHIN_S, "the dead node's trial")
        took = time.monotonic() - killed
        output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    trials = json.loads(output)["trials"]
    assert [trial["state"] for trial in trials] == ["complete"] * 2
    for trial in trials:
        curve = {str(step): trial["value"] + 1 / step for step in STEPS}
        assert trial["curve"] == pytest.approx(curve)
    firsts = sorted(file.with_suffix(".begun").read_text().split() for file in saved)
    print(f"went on after {took:.1f} s; first steps: {firsts}")
    assert [each[0] for each in firsts] == ["1", "1"]
    assert sorted(map(len, firsts)) == [1, 2], "only the dead node's trial ran twice"
    assert int(max(firsts, key=len)[1]) > 1


def test_interrupted_sweep_resumes(project: Project, cluster: Cluster) -> None:
    words = ("lr=0.35,0.36", "pause=2", "--name", "interrupted", "--metric", "loss")
    command = ("retrace", "sweep", *words, "--on", "cluster", "--json")
    saved = [project.path / f".retrace/checkpoints/{lr}-2.0.csv" for lr in (0.35, 0.36)]
    with subprocess.Popen(
        command,
        cwd=project.path,
        env=project.env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        until(lambda: any(map(n_steps, saved)), 300.0, "steps of a trial")
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=120)
    assert process.returncode == 143, output
    assert "0 of 2 trials are done, 2 trials interrupted" in output
    for machine in (cluster.head, cluster.second):
        assert not machine.processes("fit.py")
        assert not machine.processes("NodeTrial")
    document = sweep(project, *words[:-2], "--on", "cluster")
    assert [trial["state"] for trial in document["trials"]] == ["complete"] * 2
    firsts = [file.with_suffix(".begun").read_text().split() for file in saved]
    assert max(int(each[-1]) for each in firsts) > 1


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["--gpus", "9", "--on", "cluster"], ["--gpus is 9", "0 to 2"]),
        (["--gpus", "1"], ["--gpus", "--on cluster"]),
    ],
)
def test_mistakes_are_refused(project: Project, words: list[str], parts: list[str]) -> None:
    named = ("--name", "refused", "--metric", "loss")
    output = project.run("retrace", "sweep", "lr=0.1,0.2", *named, *words, code=2)
    assert len(output.splitlines()) == 1
    assert all(part in output for part in parts)
    assert "refused" not in {summary.study_name for summary in summaries(project)}


def summaries(project: Project) -> list[optuna.study.StudySummary]:
    database = project.path / ".retrace/sweeps.db"
    database.parent.mkdir(exist_ok=True)
    return optuna.get_all_study_summaries(f"sqlite:///{database}")


def n_steps(saved: Path) -> int:
    """Return how many steps a trial has saved, after the first."""
    return max(0, saved.read_text().count("\n") - 2) if saved.exists() else 0
