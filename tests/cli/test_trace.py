"""From a file to the run that made it, and from a run to its files, with commands that do what they say."""

import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

import mlflow
import pytest
import yaml
from mlflow.entities import Run
from repository import Clone

from lab import paths
from retrace.errors import RetraceError
from retrace.pipeline import git, graph, hashing
from retrace.provenance import history
from retrace.store import experiments
from retrace.system import machine
from retrace.tracking import stage as tracking

CSV = paths.RAW / "digits.csv"
MADE = {
    "download": [CSV],
    "preprocess": [paths.TRAIN, paths.VALIDATION, paths.TEST],
    "train": [paths.WEIGHTS, paths.CARD, paths.HISTORY, paths.STEPS, paths.SUMMARY, paths.BATCH],
    "evaluate": [paths.CLASSES, paths.CONFUSION, paths.PREDICTIONS, paths.VIEWS, paths.METRICS],
    "visualize": [paths.FIGURES / "[red]loss[/red].png", paths.FIGURES / "roc.png"],
}


@pytest.fixture
def store(folder: Path, empty_store: Path, beside: None) -> mlflow.MlflowClient:
    """The store of `folder`."""
    shutil.copy(empty_store, folder / "mlflow.db")
    return mlflow.MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")


def ran(*stages: str, version: str = "") -> None:
    """These stages have run; what they made says which stage and `version` it is of."""
    for stage in stages or MADE:
        with tracking.stage(stage) as run:
            for path in MADE[stage]:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(f"{path.name} {version}")
                if stage in ("evaluate", "visualize"):
                    run.artifact(path)
            if stage == "download":
                run.tags(**{"retrace.source": "the moon"})


def of(store: mlflow.MlflowClient, stage: str) -> list[Run]:
    """The runs of a stage, oldest first; of experiments for the stage `""`."""
    found = store.search_runs(
        [each.experiment_id for each in store.search_experiments()], order_by=["start_time ASC"]
    )
    return [run for run in found if run.data.tags.get("retrace.stage", "") == stage]


def said(target: Path | str, capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    history.show(str(target))
    return capsys.readouterr().out


def refused(target: Path | str) -> str:
    with pytest.raises(RetraceError) as error:
        history.show(str(target))
    assert "\n" not in str(error.value)
    return str(error.value)


def commands(output: str) -> str:
    return output.partition("\n# To get them back")[2].partition("\n")[2]


def edit(old: str, new: str) -> None:
    text = paths.PARAMS.read_text()
    assert text.count(old) == 1
    paths.PARAMS.write_text(text.replace(old, new))


def lock(outs: Mapping[str, Mapping[Path, str]]) -> None:
    """dvc.lock has these outputs, by stage."""
    listed = {
        stage: {"cmd": "x", "outs": [{"path": str(path), "md5": md5} for path, md5 in made.items()]}
        for stage, made in outs.items()
    }
    graph.LOCK.write_text(yaml.safe_dump({"schema": "2.0", "stages": listed}))


def committed() -> str:
    """The commit that all files but those of MLflow are in."""
    Path(".gitignore").write_text("mlflow.db*\nmlruns\n.retrace\n.dvc\n")
    who = ("-c", "user.name=test", "-c", "user.email=test@localhost")
    for command in (
        ["init", "--quiet"],
        ["add", "--all"],
        [*who, "commit", "--quiet", "--message", "all"],
    ):
        subprocess.run(["git", *command], check=True)
    return str(git.head_commit())


def test_a_file_leads_to_the_run_that_made_it_and_on_to_the_raw_data(
    store: mlflow.MlflowClient, capsys: pytest.CaptureFixture[str]
) -> None:
    ran()
    (parent,) = of(store, "")
    ids = {stage: of(store, stage)[0].info.run_id for stage in MADE}
    output = said(paths.WEIGHTS, capsys)
    order = [
        f"{paths.WEIGHTS}  {hashing.md5(paths.WEIGHTS)}\n",
        f"train, run {ids['train']}: FINISHED\n",
        f"of experiment {parent.info.run_name}, run {parent.info.run_id}\n",
        f"in MLflow under mnist, key {parent.data.tags['retrace.key']}\n",
        f"by {machine.user()} on {machine.processor()}",
        "lr=0.005, ",
        f"read {paths.TRAIN}  {hashing.md5(paths.TRAIN)}\n",
        f"preprocess, run {ids['preprocess']}: FINISHED\n",
        f"read data/raw  {hashing.md5(paths.RAW)}\n",
        f"download, run {ids['download']}: FINISHED\n",
        "from the moon\n",
        f"{CSV}  {hashing.md5(CSV)}\n",
    ]
    places = [output.find(part) for part in order]
    assert -1 not in places
    assert places == sorted(places)
    assert output.count(ids["preprocess"]) == 1  # both parts that train read are of it
    assert ids["evaluate"] not in output


def test_a_run_that_several_files_come_from_is_told_once(
    store: mlflow.MlflowClient, capsys: pytest.CaptureFixture[str]
) -> None:
    ran()
    output = said(paths.FIGURES / "roc.png", capsys)
    id_of_train = of(store, "train")[0].info.run_id
    assert output.count(f"train, run {id_of_train}: FINISHED\n") == 1
    assert f"train, run {id_of_train}: FINISHED, as above\n" in output
    assert output.count("from the moon") == 1


@pytest.mark.usefixtures("store")
def test_a_folder_is_traced_and_so_is_a_picture_in_it_whatever_its_name(
    capsys: pytest.CaptureFixture[str],
) -> None:
    ran()
    for target in (paths.FIGURES, paths.FIGURES / "[red]loss[/red].png", paths.FIGURES.absolute()):
        relative = os.path.relpath(target)
        assert said(target, capsys).startswith(
            f"{relative}  {hashing.md5(target)}\n└── visualize, run "
        )


@pytest.mark.usefixtures("store")
def test_no_hash_is_broken_in_a_pipe_however_narrow_the_terminal_was(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    ran()
    output = said(paths.METRICS, capsys)
    for path in (paths.METRICS, paths.WEIGHTS, paths.TRAIN, paths.RAW):
        assert f"{path}  {hashing.md5(path)}\n" in output


def test_the_oldest_of_the_runs_that_made_the_same_bytes_is_named(
    store: mlflow.MlflowClient, capsys: pytest.CaptureFixture[str]
) -> None:
    ran("train")
    edit("\nlr: 0.005", "\nlr: 0.01")
    ran("train")
    ran("train")
    first, *_ = of(store, "train")
    output = said(paths.WEIGHTS, capsys)
    assert f"└── train, run {first.info.run_id}: FINISHED\n" in output
    assert "2 other runs made the same bytes\n" in output
    assert "lr=0.005, " in output


def test_code_that_has_changed_since_is_named(
    store: mlflow.MlflowClient, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("losses", "errors"):
        Path(f"src/retrace/{name}.py").parent.mkdir(parents=True, exist_ok=True)
        Path(f"src/retrace/{name}.py").write_text("then")
    ran("train")
    assert "2 code files, same here\n" in said(paths.WEIGHTS, capsys)
    Path("src/lab/training/losses.py").write_text("now")
    assert "2 code files, changed here: src/lab/training/losses.py\n" in said(paths.WEIGHTS, capsys)


def test_a_file_changed_by_hand_leads_to_the_bytes_that_the_pipeline_made(
    store: mlflow.MlflowClient, capsys: pytest.CaptureFixture[str]
) -> None:
    ran("train")
    made = hashing.md5(paths.WEIGHTS)
    lock({"train": {paths.WEIGHTS: made}})
    paths.WEIGHTS.write_text("by hand")
    message = refused(paths.WEIGHTS)
    assert (
        f"no run in sqlite:///{Path.cwd()}/mlflow.db made these bytes, of MD5 {hashing.md5(paths.WEIGHTS)}"
        in message
    )
    (original,) = re.findall(r"`retrace trace (\w+)`", message)
    assert original == made
    output = said(original, capsys)
    assert output.startswith(
        f"{paths.WEIGHTS}  {made}\n└── train, run {of(store, 'train')[0].info.run_id}"
    )


@pytest.mark.usefixtures("store")
def test_a_picture_changed_by_hand_is_told_from_its_folder() -> None:
    ran("visualize")
    made = hashing.md5(paths.FIGURES)
    lock({"visualize": {paths.FIGURES: made}})
    (paths.FIGURES / "roc.png").write_text("by hand")
    assert (
        f"dvc.lock has {paths.FIGURES} with another, which `retrace trace {made}` traces"
        in refused(paths.FIGURES / "roc.png")
    )


@pytest.mark.usefixtures("store")
def test_a_file_that_nobody_made_costs_one_line() -> None:
    ran("preprocess")
    lock({"preprocess": {paths.TRAIN: hashing.md5(paths.TRAIN)}})
    Path("notes.txt").write_text("mine")
    assert refused("notes.txt").endswith("what a stage made can be traced")
    assert refused(paths.PROCESSED).endswith(f"trace what is in it: {paths.TRAIN}")


@pytest.mark.usefixtures("store")
def test_what_mlflow_lacks_is_a_reason_to_sync(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    ran("train")
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert "MLflow lacks 1 event logs: `retrace sync` uploads them" in refused(paths.WEIGHTS)


@pytest.mark.usefixtures("store")
@pytest.mark.parametrize(
    "target", ["nothing.txt", "abcdef", "0" * 32, "0" * 32 + ".dir", "abc' or 'a'='a"]
)
def test_neither_a_file_nor_a_run_costs_one_line(target: str) -> None:
    assert refused(target).startswith(f"{target}: neither a file nor a run in sqlite:///")


def test_digits_that_begin_several_ids_cost_one_line(
    store: mlflow.MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran("download", "preprocess")
    found = of(store, "download") + of(store, "preprocess")
    monkeypatch.setattr("retrace.store.backend.every", lambda *_: found)
    assert refused("abcdef") == (
        f"abcdef: so start the ids of 2 runs, {found[0].info.run_id}, {found[1].info.run_id}; give more digits"
    )


def test_the_experiment_of_the_work_tree_is_named_where_another_one_made_the_file(
    store: mlflow.MlflowClient, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    ran("train")
    edit("\nlr: 0.005", "\nlr: 0.01")
    ran("train")
    own = of(store, "")[1]
    lock({"train": {paths.WEIGHTS: hashing.md5(paths.WEIGHTS)}})
    here = experiments.Tree({}, own.data.tags["retrace.key"], graph.locked(), {})
    monkeypatch.setattr("retrace.store.experiments.read", lambda _: here)
    last = said(paths.WEIGHTS, capsys).splitlines()[-1]
    assert (
        last
        == f"└── the workspace has it as of experiment {own.info.run_name}, run {own.info.run_id}"
    )


@pytest.mark.usefixtures("folder")
def test_a_store_that_is_away_costs_one_line_without_its_password(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:canary@127.0.0.1:9")
    message = refused(paths.PARAMS)
    assert "does not answer" in message
    assert "canary" not in message


def test_a_run_has_its_files_and_the_commands_bring_them_back(
    store: mlflow.MlflowClient, capsys: pytest.CaptureFixture[str]
) -> None:
    ran()
    (parent,) = of(store, "")
    output = said(parent.info.run_id[:12], capsys)
    into = Path(f"traced-{parent.info.run_id[:8]}")
    for path in (paths.RAW, *MADE["train"], paths.FIGURES):
        assert re.search(rf"{path}  {hashing.md5(path)}  .*the work tree\n", output)
    only_copied = "\n".join(line for line in commands(output).splitlines() if "mlflow" not in line)
    subprocess.run(["bash", "-e", "-c", only_copied], check=True)
    for path in (CSV, *MADE["preprocess"], *MADE["train"]):
        assert hashing.md5(into / path) == hashing.md5(path)


def test_a_linked_stage_s_files_are_the_experiment_s_too(
    store: mlflow.MlflowClient, capsys: pytest.CaptureFixture[str]
) -> None:
    ran("download", "preprocess", "train")
    edit("\nlr: 0.005", "\nlr: 0.01")
    ran("train", version="2")
    first, second = of(store, "")
    output = said(second.info.run_id, capsys)
    assert f"preprocess, run {of(store, 'preprocess')[0].info.run_id}" in output
    assert f"of experiment {first.info.run_name}, run {first.info.run_id}\n" in output
    assert f"train, run {of(store, 'train')[1].info.run_id}" in output
    assert of(store, "train")[0].info.run_id not in output


def test_a_run_that_failed_says_why_and_has_no_commands(
    store: mlflow.MlflowClient, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ValueError, match="too wet"), tracking.stage("train"):
        raise ValueError("too wet")
    output = said(of(store, "train")[0].info.run_id, capsys)
    assert "error ValueError: too wet\n" in output
    assert "no file of it is known\n" in output
    assert "# To get" not in output


def line_of(output: str, path: Path) -> str:
    """Where the output says that a file is."""
    (line,) = [line for line in output.splitlines() if f"── {path}  " in line]
    return line.split("  ", 2)[2]


def cached(path: Path) -> Path:
    """The object in DVC's cache, which now has the file."""
    md5 = hashing.md5(path)
    there = Path(".dvc/cache/files/md5", md5[:2], md5[2:])
    there.parent.mkdir(parents=True)
    shutil.copy(path, there)
    return there


def test_a_place_is_named_only_as_long_as_it_has_the_right_bytes(
    store: mlflow.MlflowClient, capsys: pytest.CaptureFixture[str]
) -> None:
    ran("evaluate")
    kept, other = hashing.md5(paths.METRICS), hashing.md5(paths.CLASSES)
    there = cached(paths.CLASSES)
    lock({"evaluate": {paths.METRICS: kept, paths.CLASSES: other}})
    for path in (*MADE["evaluate"][1:4], paths.CLASSES):
        path.unlink()
    commit = committed()[:12]
    (run,) = of(store, "evaluate")
    output = said(run.info.run_id, capsys)
    assert line_of(output, paths.METRICS) == f"commit {commit}, MLflow's artifacts, the work tree"
    assert line_of(output, paths.CLASSES) == f"commit {commit}, DVC's cache, MLflow's artifacts"
    into = f"traced-{run.info.run_id[:8]}"
    for path in (paths.METRICS, paths.CLASSES):
        assert f"dvc get . {path} --rev {commit} --out {into}/{path}\n" in commands(output)

    there.write_text("flipped")
    paths.METRICS.write_text("by hand")
    output = said(run.info.run_id, capsys)
    assert line_of(output, paths.METRICS) == f"commit {commit}, MLflow's artifacts"
    assert line_of(output, paths.CLASSES) == "MLflow's artifacts"
    get = f"--run-id {run.info.run_id} --artifact-path {paths.CLASSES} --dst-path {into}/reports"
    assert f"mlflow artifacts download {get}\n" in commands(output)


def test_what_is_nowhere_is_made_again_if_its_code_is_there(
    store: mlflow.MlflowClient, capsys: pytest.CaptureFixture[str]
) -> None:
    ran("train")
    commit = committed()
    edit("\nlr: 0.005", "\nlr: 0.01")
    ran("train")
    shutil.rmtree("models")
    before, after = (run.info.run_id for run in of(store, "train"))
    output = said(before, capsys)
    lost = f"{paths.WEIGHTS}, {paths.CARD}"
    assert line_of(output, paths.WEIGHTS) == "nowhere"
    assert f"# nowhere: {lost}; the commit of its code is gone\n" in output
    tree = f"../again-{after[:8]}"
    patch = f"--run-id {after} --artifact-path code.patch --dst-path {tree} && git -C {tree} apply code.patch"
    assert commands(said(after, capsys)).splitlines()[-4:] == [
        f"# nowhere: {lost}; reproduced by:",
        f"git worktree add --detach {tree} {commit}",
        f"mlflow artifacts download {patch}",
        f"(cd {tree} && dvc repro train)",
    ]


@pytest.mark.slow
@pytest.mark.xdist_group("end to end")
def test_what_is_typed_brings_every_byte_back(tmp_path_factory: pytest.TempPathFactory) -> None:
    small = {
        "dataset: mnist": "dataset: digits",
        "epochs: 5": "epochs: 2",
        "threads: 2": "threads: 1",
    }
    clone = Clone(tmp_path_factory.mktemp("clone"), tmp_path_factory.mktemp("cache"), small)
    clone.type("dvc repro")
    store = mlflow.MlflowClient(f"sqlite:///{clone.path / 'mlflow.db'}")

    (train,) = of(store, "train")
    output = clone.type(f"retrace trace {train.info.run_id}")
    assert (
        f"{paths.WEIGHTS}  {hashing.md5(clone.path / paths.WEIGHTS)}  DVC's cache, the work tree\n"
        in output
    )
    got_back(clone, output, train, MADE["train"])

    clone.commit("digits")
    output = clone.type("cd models && retrace trace model.safetensors")
    for stage in ("train", "preprocess", "download"):
        assert of(store, stage)[0].info.run_id in output
    assert hashing.md5(clone.path / CSV) in output
    (parent,) = of(store, "")
    output = clone.type(f"retrace trace {parent.info.run_id}")
    assert "nowhere" not in output
    got_back(clone, output, parent, [paths.TEST, paths.RAW, paths.METRICS, paths.FIGURES])

    clone.type("dvc exp run --temp --name aside -S lr=0.01 train")
    train = of(store, "train")[-1]
    output = clone.type(f"retrace trace {train.info.run_id}")
    (model,) = got_back(clone, output, train, [paths.WEIGHTS])
    md5 = train.data.tags[f"dvc.outs.{paths.WEIGHTS}"]
    assert (
        hashing.md5(model) == md5 != hashing.md5(clone.path / paths.WEIGHTS)
    )  # which never was in the work tree
    output = clone.type(f"retrace trace {model}")
    assert "of experiment aside, run " in output
    assert "lr=0.01, " in output

    (clone.path / ".dvc/cache/files/md5" / md5[:2] / md5[2:]).unlink()
    output = clone.type(f"retrace trace {train.info.run_id}")
    assert f"{md5}  nowhere\n" in output
    again = commands(output).partition("# nowhere")[2]
    clone.type(f"set -e\n#{again}")
    assert hashing.md5(clone.path.parent / f"again-{train.info.run_id[:8]}" / paths.WEIGHTS) == md5


def got_back(clone: Clone, output: str, run: Run, files: list[Path]) -> list[Path]:
    """What the commands in `output` brought back of these files of a run, byte for byte as the output says."""
    script = [
        line
        for line in commands(output).splitlines()
        if any(f"/{path} " in f"{line} " for path in files)
    ]
    clone.type("set -e\n" + "\n".join(script))
    found = [clone.path / f"traced-{run.info.run_id[:8]}" / path for path in files]
    for file, path in zip(found, files, strict=True):
        assert f"── {path}  {hashing.md5(file)}  " in output
    return found
