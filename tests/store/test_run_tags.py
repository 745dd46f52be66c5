"""The tags of runs: which of them MLflow's page shows, and how files and runs are found by them."""

import json
from pathlib import Path

import mlflow
import pytest
from mlflow_runs import columns, runs

import retrace
from lab import params, paths
from retrace.pipeline import hashing
from retrace.store import backend, cached_stages, names, run_tags
from retrace.store.runs import abandoned, children
from retrace.system import processes

MD5 = "0123456789abcdef0123456789abcdef"
DATA = "data/it's @1.csv"
GONE = processes.to_line(processes.identity() | {"started": 1.0})


@pytest.fixture
def experiment(store: mlflow.MlflowClient) -> str:
    return backend.experiment_of(store, "any")


def add(client: mlflow.MlflowClient, experiment: str, **tags: str) -> str:
    """Add a finished run of the stage train, and return its id."""
    tags = {key.replace("__", "."): value for key, value in tags.items()}
    encoded = names.tags({"retrace.stage": "train"} | tags)
    run = client.create_run(experiment, tags=encoded).info.run_id
    client.set_terminated(run)
    return run


@pytest.mark.usefixtures("beside", "folder")
def test_few_tags_are_columns(store: mlflow.MlflowClient) -> None:
    for name in params.STAGES:
        with retrace.stage(name) as run:
            if name == "download":
                paths.RAW.mkdir(parents=True)
                (paths.RAW / name).write_text(name)
            run.summary({"test_loss": 0.5})
    (parent,), every = runs(store)
    shown = columns(store, parent.info.experiment_id)
    assert shown["tags"] == {"retrace.key", "retrace.stage", "retrace.headline"}
    assert shown["params"] == parent.data.params.keys()
    assert run_tags.hashes(every[0], "outs") == {str(paths.RAW): hashing.md5(paths.RAW)}
    file = store.download_artifacts(every[0].info.run_id, "retrace/lineage.json", str(Path.cwd()))
    lineage = json.loads(Path(file).read_text())
    assert lineage["outs"] == run_tags.hashes(every[0], "outs")
    assert lineage["deps"] == run_tags.hashes(every[0], "deps")
    assert lineage["files"].keys() == {f"{paths.RAW}/download"}


def test_files_of_any_number(store: mlflow.MlflowClient, experiment: str) -> None:
    deps = {f"src/{'a' * 200}/{n}.py": f"{n:032x}" for n in range(100)} | {DATA: MD5}
    files = {f"out/{n}.png": f"{n:032x}" for n in range(1000)}
    outs = {"out": f"{MD5}.dir"}
    tags = run_tags.of_deps(deps, [DATA]) | run_tags.of_outs(outs, files)
    (run,) = [store.get_run(add(store, experiment, **tags))]
    assert run_tags.hashes(run, "deps") == deps
    assert run_tags.hashes(run, "outs") == outs
    assert len(run.data.tags) < 220
    assert run_tags.made(run)[f"{5:032x}"] == "out/5.png"
    assert columns(store, experiment)["tags"] == {"retrace.stage"}
    (reader,) = run_tags.readers(store, [experiment], DATA, MD5)
    (maker,) = run_tags.makers(store, [experiment], [f"{MD5}.dir", f"{5:032x}"])
    assert reader.info.run_id == maker.info.run_id == run.info.run_id
    assert run_tags.readers(store, [experiment], "other.csv", MD5) == []
    assert run_tags.makers(store, [experiment], [MD5]) == []
    assert run_tags.makers(store, [experiment], []) == []


def test_runs_of_older_versions(store: mlflow.MlflowClient, experiment: str) -> None:
    parent = add(store, experiment, retrace__key="k")
    tags = {
        f"dvc.deps.{DATA}": MD5,
        "dvc.outs.out": f"{MD5}.dir",
        f"retrace.made.{MD5}.dir": "out",
        f"retrace.made.{'1' * 32}": "out/1",
        "retrace.inputs": "i",
        "retrace.process": GONE,
        "mlflow.parentRunId": parent,
    }
    old = add(store, experiment, **tags)
    new = add(store, experiment, **run_tags.of_outs({"out": f"{MD5}.dir"}, {}))
    run = store.get_run(old)
    assert run_tags.hashes(run, "deps") == {DATA: MD5}
    assert run_tags.hashes(run, "outs") == {"out": f"{MD5}.dir"}
    assert run_tags.made(run) == {f"{MD5}.dir": "out", "1" * 32: "out/1"}
    makers = run_tags.makers(store, [experiment], [f"{MD5}.dir"])
    assert {maker.info.run_id for maker in makers} == {old, new}
    (reader,) = run_tags.readers(store, [experiment], DATA, MD5)
    assert reader.info.run_id == old
    maker = cached_stages.maker(store, experiment, "train", [f"{MD5}.dir", "1" * 32])
    assert maker
    assert maker.info.run_id == old
    known = run_tags.find(store, [experiment], "inputs", "i", cached_stages.FINISHED)
    assert known
    assert known.info.run_id == old
    store.update_run(old, "RUNNING")
    assert [run.info.run_id for run in abandoned(store)] == [old]
    assert [run.info.run_id for run in children(store, experiment, parent)] == [old]


def test_run_whose_results_count() -> None:
    stage = "fit@é"
    own = {names.encode(run_tags.hidden(f"run.{stage}")): "own"}
    old = {names.encode(f"retrace.run.{stage}"): "old"}
    cached = {names.encode(f"retrace.cached.{stage}"): "cached"}
    assert run_tags.linked_run(old, stage) == "old"
    assert run_tags.linked_run(old | own, stage) == "own"
    assert run_tags.linked_run(own | cached, stage) == "cached"  # its own did not finish
    assert run_tags.linked_run({}, stage) is None
