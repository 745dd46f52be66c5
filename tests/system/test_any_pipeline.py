"""compare, leaderboard, promote and verify in a repository that knows nothing of retrace."""

import json
from pathlib import Path
from typing import Any

import mlflow
import pytest
from faults.servers import until
from mlflow.entities import Run
from stranger import Project

from retrace.store import run_tags

DVC_YAML = """
stages:
  split:
    cmd: cp houses.csv split.csv
    deps: [houses.csv]
    outs: [split.csv]
  fit:
    cmd: python fit.py
    deps: [fit.py, split.csv]
    params: [slope, seed]
    outs: [model.json, curve.csv]
  score:
    cmd: python score.py
    deps: [score.py, split.csv, model.json]
    outs: [prices.csv, classes.csv]
    metrics: [scores.yaml: {cache: false}]
  draw:
    cmd: cp model.json drawing.json
    deps: [model.json]
    params: [color]
    outs: [drawing.json]
plots:
  - curve.csv: {x: epoch, y: loss}
  - classes.csv: {template: confusion, x: truth, y: guess}
artifacts:
  price: {path: model.json, type: model}
"""
FIT = """
import json
params = dict(line.split(": ") for line in open("params.yaml").read().splitlines())
slope = float(params["slope"]) + int(params["seed"]) / 1000
open("model.json", "w").write(json.dumps({"slope": slope}))
rows = [f"{epoch},{abs(slope - 2) / (epoch + 1)}" for epoch in range(3)]
open("curve.csv", "w").write("\\n".join(["epoch,loss", *rows]))
"""
SCORE = """
import json, time
start = time.perf_counter()
slope = json.load(open("model.json"))["slope"]
rows = [tuple(map(float, line.split(","))) for line in open("split.csv").read().splitlines()]
prices = [(price, slope * size) for size, price in rows]
classes = [(int(price > 20), int(guess > 20)) for price, guess in prices]
tables = {"prices.csv": ("price,estimate", prices), "classes.csv": ("truth,guess", classes)}
for path, (header, table) in tables.items():
    lines = [",".join(map(str, row)) for row in table]
    open(path, "w").write("\\n".join([header, *lines]))
cost = sum(abs(price - guess) for price, guess in prices) / len(prices)
score_s = time.perf_counter() - start
open("scores.yaml", "w").write(f"cost: {cost}\\nscore_s: {score_s}\\n")
"""
HOUSES = "".join(f"{size},{2 * size + (size * 7 % 5 - 2) / 10}\n" for size in range(1, 41))
FILES = {
    "dvc.yaml": DVC_YAML,
    "fit.py": FIT,
    "score.py": SCORE,
    "houses.csv": HOUSES,
    "params.yaml": "slope: 2.5\nseed: 0\ncolor: red\n",
}
TABLE = 'predictions = {path = "prices.csv", actual = "price", predicted = "estimate"}\n'
METRICS = 'metrics = {primary = "cost", minimize = ["cost"]}\n'
pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Project:
    """Return a repository with three experiments: steep (committed), good, and again."""
    folder = tmp_path_factory.mktemp("houses")
    project = Project(folder, tmp_path_factory.mktemp("cache"), empty_store, {}, FILES)
    project.type("git rm --quiet --cached houses.csv && dvc add --quiet houses.csv")
    project.type("retrace dvc repro")
    project.commit("steep")
    project.type("retrace dvc exp run --name good -S slope=2.01 -S color=blue")
    project.type("retrace dvc exp run --name again -S seed=1 -S slope=2.01")
    project.type("git restore . && dvc checkout --quiet")
    logs = folder / ".retrace/journal"
    until(lambda: not any(logs.glob("*.jsonl")), 120.0, "the uploads")
    return project


@pytest.fixture(scope="module")
def client(project: Project) -> mlflow.MlflowClient:
    return mlflow.MlflowClient(f"sqlite:///{project.path / 'mlflow.db'}")


def configure(project: Project, text: str) -> None:
    (project.path / "retrace.toml").write_text(text)


def compared(project: Project, *names: str) -> dict[str, Any]:
    return json.loads(project.run("retrace", "compare", *names, "--json"))


def runs(client: mlflow.MlflowClient, project: Project) -> dict[str, Run]:
    """Return the runs of experiments by name, and of the stages of `good` by stage."""
    experiment = client.get_experiment_by_name(project.path.name)
    assert experiment
    found = client.search_runs([experiment.experiment_id], order_by=["start_time ASC"])
    parents = {
        run.data.tags.get("dvc.exp_name", "steep"): run
        for run in found
        if "retrace.key" in run.data.tags
    }
    good = parents["good"].info.run_id
    children = [run for run in found if run.data.tags.get("mlflow.parentRunId") == good]
    return parents | {run.data.tags["retrace.stage"]: run for run in children}


def test_numbers_are_compared_by_errors(project: Project) -> None:
    configure(project, TABLE)
    document = compared(project, "HEAD", "good")
    (test,) = document["tests"]
    assert (test["test"], test["verdict"], test["n_samples"]) == ("sign flip", "better", 40)
    assert test["p"] < 0.001
    cost = document["metrics"]["cost"]["values"]
    assert [test["mean_first"], test["mean_second"]] == pytest.approx(cost)
    assert document["params"] == {"color": ["red", "blue"], "slope": ["2.5", "2.01"]}
    assert document["files"] == {}
    printed = project.run("retrace", "compare", "HEAD", "good", "--html", "page.html")
    assert "of the same 40 samples, the mean absolute error is 0.2" in printed
    page = (project.path / "page.html").read_text()
    assert page.count('<svg class="chart"') == 1
    assert "Permutation test" in page
    assert "McNemar" not in page


def test_classes_are_compared_by_mcnemar(project: Project) -> None:
    configure(project, "")
    document = compared(project, "HEAD", "good", "again")
    first, second = document["tests"]
    assert [first["test"], second["test"]] == ["McNemar", "McNemar"]
    assert (first["only_first"], first["only_second"]) == (0, 1)
    assert first["p_corrected"] == min(1.0, 2 * first["p"])
    assert [len(each["history"]) for each in document["experiments"]] == [3, 3, 3]
    assert document["experiments"][0]["history"][0] == {"epoch": 0.0, "loss": 0.5}


def test_mistaken_column_is_named(project: Project) -> None:
    configure(project, 'predictions = {path = "prices.csv", actual = "prize"}\n')
    (test,) = compared(project, "HEAD", "good")["tests"]
    assert "column 'prize' is missing; it has price, estimate" in test["why"]
    configure(project, 'predictions = "lost.csv"\n')
    (test,) = compared(project, "HEAD", "good")["tests"]
    assert "predictions of HEAD are neither in DVC's cache nor in MLflow" in test["why"]


def test_leaderboard_has_a_direction(project: Project) -> None:
    configure(project, "")

    def board(*options: str) -> dict[str, Any]:
        printed = project.run("retrace", "leaderboard", "--metric", "cost", "--json", *options)
        return json.loads(printed)

    assert board()["better"] == "more"
    document = board("--minimize")
    assert document["better"] == "less"
    first, second = document["rows"]
    # `again` differs from `good` in its seed, and in the color, which only a later stage reads.
    assert [run["seed"] for run in first["runs"]] == ["0", "1"]
    assert first["changes"] == {"slope": "2.01"}
    assert second["changes"] == {}
    assert first["fit_s"] > 0
    configure(project, METRICS)
    assert board()["rows"] == document["rows"]
    assert board("--maximize")["better"] == "more"
    project.run("retrace", "leaderboard", "--minimize", "--maximize", code=2)


def test_timed_metric_is_not_verified(project: Project, client: mlflow.MlflowClient) -> None:
    configure(project, "")
    good = runs(client, project)["good"].info.run_id
    (project.path / "houses.csv").unlink()
    (project.path / "houses.csv").write_text("1,1\n")  # DVC's cache has what the run read
    document = json.loads(project.type(f"retrace verify {good} --json 2> verify.log"))
    assert document["verified"]
    assert document["left_out"] == ["scores.yaml", "score_s"]
    rows = {row["what"]: row["verdict"] for row in document["rows"]}
    assert rows["cost"] == rows["model.json"] == rows["prices.csv"] == "same"
    assert not {"score_s", "scores.yaml"} & rows.keys()
    project.type("dvc checkout --quiet --force houses.csv.dvc")


def test_data_is_verified_from_the_remote(project: Project, client: mlflow.MlflowClient) -> None:
    configure(project, "")
    good = runs(client, project)["good"].info.run_id
    project.type("dvc remote add --quiet --default storage storage")
    project.type("dvc push --quiet houses.csv.dvc")
    (project.path / "houses.csv").unlink()
    (project.path / "houses.csv").write_text("1,1\n")
    project.type("mv .dvc/cache .dvc/cache-of-another-machine")
    try:
        assert json.loads(project.type(f"retrace verify {good} --json 2> verify.log"))["verified"]
        assert (project.path / ".dvc/cache/files/md5").is_dir()  # it was empty before
        project.type("rm -r storage .dvc/cache")
        refused = project.run("retrace", "verify", good, code=2)
        assert "houses.csv has changed since the run, which read MD5 " in refused
    finally:
        project.type("rm -rf .dvc/cache && mv .dvc/cache-of-another-machine .dvc/cache")
        project.type("git restore .dvc/config && dvc checkout --quiet --force houses.csv.dvc")


def models_of(run: Run) -> list[str]:
    return [output.model_id for output in (run.outputs.model_outputs if run.outputs else [])]


def test_artifact_is_a_logged_model(project: Project, client: mlflow.MlflowClient) -> None:
    known = runs(client, project)
    ids = [models_of(known[name]) for name in ("fit", "good", "score", "draw")]
    assert ids == [ids[0], ids[0], [], []]
    model = client.get_logged_model(ids[0][0])
    assert (model.name, str(model.status)) == ("price", "READY")
    assert model.tags["retrace.md5"] == run_tags.hashes(known["fit"], "outs")["model.json"]
    assert [file.path for file in client.list_logged_model_artifacts(model.model_id)] == [
        "model.json"
    ]
    assert {"cost", "score_s"} <= {metric.key for metric in model.metrics or []}


def test_better_model_is_promoted(project: Project, client: mlflow.MlflowClient) -> None:
    configure(project, "")
    known = runs(client, project)
    missing = project.run("retrace", "promote", known["good"].info.run_id, code=2)
    assert missing.startswith("--metric is missing; ")
    configure(project, METRICS + 'models = {name = "prices"}\n')
    steep = known["steep"].info.run_id
    good = known["good"].info.run_id
    split = str(run_tags.stage_run(client.get_run(steep).data.tags, "split"))
    assert "MLflow has no model of it" in project.run("retrace", "promote", split, code=2)
    printed = project.run("retrace", "promote", steep)
    assert printed.startswith("models:/prices@champion is version 1")
    assert "mlflow models serve" not in printed  # it is no model of MLflow's format
    assert "is version 2" in project.run("retrace", "promote", good)
    refused = project.run("retrace", "promote", steep, code=2)
    assert "its cost is 10.2" in refused
    assert "that of prices@champion (version 2) on the same data 0.2" in refused
    tags = client.get_model_version_by_alias("prices", "champion").tags
    assert tags["dvc.deps.split.csv"] == run_tags.hashes(known["score"], "deps")["split.csv"]
    assert tags["retrace.run.score"] == known["score"].info.run_id
