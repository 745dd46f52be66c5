"""`retrace trace`: from a file to its run, from a run to its files and the commands to restore."""

import json
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
from retrace.pipeline import git, hashing, snapshot
from retrace.provenance import lineage
from retrace.store import run_tags
from retrace.system import machine
from retrace.tracking import stage as tracking

CSV = paths.RAW / "digits.csv"
SMALL = {"dataset: mnist": "dataset: digits", "epochs: 5": "epochs: 2", "threads: 2": "threads: 1"}
MADE = {
    "download": [CSV],
    "preprocess": [paths.TRAIN, paths.VALIDATION, paths.TEST],
    "train": [
        paths.WEIGHTS,
        paths.MODEL_CONFIG,
        paths.HISTORY,
        paths.STEPS,
        paths.SUMMARY,
        paths.BATCH,
    ],
    "evaluate": [
        paths.CLASSES,
        paths.CONFUSION,
        paths.PREDICTION_TABLE,
        paths.PREDICTIONS,
        paths.VIEWS,
        paths.METRICS,
    ],
    "visualize": [paths.FIGURES / "[red]loss[/red].png", paths.FIGURES / "roc.png"],
}


@pytest.fixture
def store(folder: Path, empty_store: Path, beside: None) -> mlflow.MlflowClient:
    """The store of `folder`."""
    shutil.copy(empty_store, folder / "mlflow.db")
    return mlflow.MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")


def ran(*stages: str, version: str = "") -> None:
    """Run these stages; their outputs depend on the stage and on `version`."""
    for stage in stages or MADE:
        with tracking.stage(stage) as run:
            for path in MADE[stage]:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(f"{path.name} {version}")
                if stage in ("evaluate", "visualize"):
                    run.artifact(path)
            if stage == "download":
                run.tags(**{"retrace.source": "the moon"})


def runs_of(store: mlflow.MlflowClient, stage: str) -> list[Run]:
    """Return the runs of a stage, oldest first; of experiments for the stage `""`."""
    experiment_ids = [each.experiment_id for each in store.search_experiments()]
    runs = store.search_runs(experiment_ids, order_by=["start_time ASC"])
    return [run for run in runs if run.data.tags.get("retrace.stage", "") == stage]


def trace(target: Path | str, capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    lineage.show(str(target))
    return capsys.readouterr().out


def refused(target: Path | str) -> str:
    """Return the one line with which a target is refused."""
    with pytest.raises(RetraceError) as error:
        lineage.show(str(target))
    assert "\n" not in str(error.value)
    return str(error.value)


def commands(output: str) -> str:
    return output.partition("\n# To restore them into ")[2].partition("\n")[2]


def edit(old: str, new: str) -> None:
    text = paths.PARAMS.read_text()
    assert text.count(old) == 1
    paths.PARAMS.write_text(text.replace(old, new))


def lock(outs: Mapping[str, Mapping[Path, str]]) -> None:
    """Write a dvc.lock with these outputs, by stage."""
    listed = {
        stage: {
            "cmd": "x",
            "outs": [
                {"path": str(path), "hash": "md5", "md5": md5} for path, md5 in of_stage.items()
            ],
        }
        for stage, of_stage in outs.items()
    }
    Path("dvc.lock").write_text(yaml.safe_dump({"schema": "2.0", "stages": listed}))


def commit_all(top: Path = Path()) -> str:
    """Commit all files but those of MLflow, and return the commit."""
    (top / ".gitignore").write_text("mlflow.db*\nmlruns\n.retrace\n.dvc\n")
    who = ("-c", "user.name=test", "-c", "user.email=test@localhost")
    for command in (
        ["init", "--quiet"],
        ["add", "--all"],
        [*who, "commit", "--quiet", "--message", "all"],
    ):
        subprocess.run(["git", *command], cwd=top, check=True)
    return str(git.head_commit())


def test_file_leads_back_to_the_raw_data(
    store: mlflow.MlflowClient, capsys: pytest.CaptureFixture[str]
) -> None:
    ran()
    (parent,) = runs_of(store, "")
    ids = {stage: runs_of(store, stage)[0].info.run_id for stage in MADE}
    output = trace(paths.WEIGHTS, capsys)
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
    positions = [output.find(text) for text in order]
    assert -1 not in positions
    assert positions == sorted(positions)
    assert output.count(ids["preprocess"]) == 1  # it made both splits that train read
    assert ids["evaluate"] not in output


def test_run_is_described_once(
    store: mlflow.MlflowClient, capsys: pytest.CaptureFixture[str]
) -> None:
    ran()
    output = trace(paths.FIGURES / "roc.png", capsys)
    id_of_train = runs_of(store, "train")[0].info.run_id
    assert output.count(f"train, run {id_of_train}: FINISHED\n") == 1
    assert f"train, run {id_of_train}: FINISHED, as above\n" in output
    assert output.count("from the moon") == 1


@pytest.mark.usefixtures("store")
def test_folder_and_file_in_it_are_traced(
    capsys: pytest.CaptureFixture[str],
) -> None:
    ran()
    for target in (paths.FIGURES, paths.FIGURES / "[red]loss[/red].png", paths.FIGURES.absolute()):
        relative = os.path.relpath(target)
        assert trace(target, capsys).startswith(
            f"{relative}  {hashing.md5(target)}\n└── visualize, run "
        )


@pytest.mark.usefixtures("store")
def test_pipe_wraps_no_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    ran()
    output = trace(paths.METRICS, capsys)
    for path in (paths.METRICS, paths.WEIGHTS, paths.TRAIN, paths.RAW):
        assert f"{path}  {hashing.md5(path)}\n" in output


def test_oldest_maker_is_named(
    store: mlflow.MlflowClient, capsys: pytest.CaptureFixture[str]
) -> None:
    ran("train")
    edit("\nlr: 0.005", "\nlr: 0.01")
    ran("train")
    ran("train")
    first, *_ = runs_of(store, "train")
    output = trace(paths.WEIGHTS, capsys)
    assert f"└── train, run {first.info.run_id}: FINISHED\n" in output
    assert "2 other runs made the same bytes\n" in output
    assert "lr=0.005, " in output


def test_changed_code_is_named(
    store: mlflow.MlflowClient, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in ("src/lab/training/losses.py", "src/lab/errors.py"):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_text("then")
    ran("train")
    assert "2 code files, same here\n" in trace(paths.WEIGHTS, capsys)
    Path("src/lab/training/losses.py").write_text("now")
    assert "2 code files, changed here: src/lab/training\n" in trace(paths.WEIGHTS, capsys)


def test_edited_file_leads_to_the_original(
    store: mlflow.MlflowClient, capsys: pytest.CaptureFixture[str]
) -> None:
    ran("train")
    md5 = hashing.md5(paths.WEIGHTS)
    lock({"train": {paths.WEIGHTS: md5}})
    paths.WEIGHTS.write_text("by hand")
    message = refused(paths.WEIGHTS)
    assert f"(MD5 {hashing.md5(paths.WEIGHTS)})" in message
    (original,) = re.findall(r"`retrace trace (\w+)`", message)
    assert original == md5
    output = trace(original, capsys)
    assert output.startswith(
        f"{paths.WEIGHTS}  {md5}\n└── train, run {runs_of(store, 'train')[0].info.run_id}"
    )


@pytest.mark.usefixtures("store")
def test_edited_figure_leads_to_its_folder() -> None:
    ran("visualize")
    md5 = hashing.md5(paths.FIGURES)
    lock({"visualize": {paths.FIGURES: md5}})
    (paths.FIGURES / "roc.png").write_text("by hand")
    message = refused(paths.FIGURES / "roc.png")
    assert f"dvc.lock lists {paths.FIGURES} with the MD5 {md5}; " in message
    assert f"`retrace trace {md5}`" in message


@pytest.mark.usefixtures("store")
def test_unmade_file_is_refused() -> None:
    ran("preprocess")
    lock({"preprocess": {paths.TRAIN: hashing.md5(paths.TRAIN)}})
    Path("notes.txt").write_text("mine")
    assert refused("notes.txt").startswith("notes.txt: no run in ")
    assert refused(paths.PROCESSED).endswith(f": {paths.TRAIN}")


@pytest.mark.usefixtures("store")
def test_missing_event_logs_suggest_sync(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    ran("train")
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert "1 event log is not in MLflow yet: run `retrace sync`" in refused(paths.WEIGHTS)


@pytest.mark.usefixtures("store")
@pytest.mark.parametrize(
    "target", ["nothing.txt", "abcdef", "0" * 32, "0" * 32 + ".dir", "abc' or 'a'='a"]
)
def test_unknown_target_is_refused(target: str) -> None:
    assert refused(target).startswith(f"{target}: neither a file nor a run in sqlite:///")


def test_ambiguous_run_id_is_refused(
    store: mlflow.MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran("download", "preprocess")
    runs = runs_of(store, "download") + runs_of(store, "preprocess")
    monkeypatch.setattr("retrace.store.backend.search_runs", lambda *_: runs)
    ids = ", ".join(run.info.run_id for run in runs)
    message = refused("abcdef")
    assert message.startswith("abcdef: ")
    assert f"2 run ids begin with these digits: {ids};" in message


def test_workspace_experiment_is_named(
    store: mlflow.MlflowClient, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    ran("train")
    edit("\nlr: 0.005", "\nlr: 0.01")
    ran("train")
    own = runs_of(store, "")[1]
    lock({"train": {paths.WEIGHTS: hashing.md5(paths.WEIGHTS)}})
    here = snapshot.Snapshot({}, own.data.tags["retrace.key"], {}, {}, {})
    monkeypatch.setattr("retrace.pipeline.snapshot.read", lambda _: here)
    last = trace(paths.WEIGHTS, capsys).splitlines()[-1]
    assert last.startswith("└── in the workspace ")
    assert last.endswith(f" experiment {own.info.run_name}, run {own.info.run_id}")


@pytest.mark.usefixtures("folder")
def test_password_is_redacted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:canary@127.0.0.1:9")
    message = refused(paths.PARAMS)
    assert "does not answer" in message
    assert "canary" not in message


def test_commands_restore_a_run_s_files(
    store: mlflow.MlflowClient, capsys: pytest.CaptureFixture[str]
) -> None:
    ran()
    (parent,) = runs_of(store, "")
    output = trace(parent.info.run_id[:12], capsys)
    into = Path(f"traced-{parent.info.run_id[:8]}")
    for path in (paths.RAW, *MADE["train"], paths.FIGURES):
        assert re.search(rf"{path}  {hashing.md5(path)}  .*the work tree\n", output)
    only_copied = "\n".join(line for line in commands(output).splitlines() if "mlflow" not in line)
    subprocess.run(["bash", "-e", "-c", only_copied], check=True)
    copied = [path for path in MADE["train"] if path.suffix != ".csv"]  # MLflow has the tables
    for path in (CSV, *MADE["preprocess"], *copied):
        assert hashing.md5(into / path) == hashing.md5(path)


def test_cached_stage_belongs_to_experiment(
    store: mlflow.MlflowClient, capsys: pytest.CaptureFixture[str]
) -> None:
    ran("download", "preprocess", "train")
    edit("\nlr: 0.005", "\nlr: 0.01")
    ran("train", version="2")
    first, second = runs_of(store, "")
    output = trace(second.info.run_id, capsys)
    assert f"preprocess, run {runs_of(store, 'preprocess')[0].info.run_id}" in output
    assert f"of experiment {first.info.run_name}, run {first.info.run_id}\n" in output
    assert f"train, run {runs_of(store, 'train')[1].info.run_id}" in output
    assert runs_of(store, "train")[0].info.run_id not in output


def test_lost_things_are_shown(
    store: mlflow.MlflowClient, capsys: pytest.CaptureFixture[str]
) -> None:
    ran("train")
    (run,) = runs_of(store, "train")
    for tag, text in run_tags.of_lost({"code.patch": "no space"}).items():
        store.set_tag(run.info.run_id, tag, text)
    assert "not recorded: code.patch: no space" in trace(paths.WEIGHTS, capsys)
    lineage.show(run.info.run_id, as_json=True)
    (stage,) = json.loads(capsys.readouterr().out)["stages"]
    assert stage["lost"] == {"code.patch": "no space"}


def test_commands_name_git_s_top_folder(
    folder: Path,
    store: mlflow.MlflowClient,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A project in a folder of a larger repository: its commits are those of the repository."""
    project = folder / "projects/digits"
    project.mkdir(parents=True)
    for file in filter(Path.is_file, list(folder.iterdir())):
        file.rename(project / file.name)
    monkeypatch.chdir(project)
    ran("train")
    add_to_cache(paths.WEIGHTS)
    lock({"train": {paths.WEIGHTS: hashing.md5(paths.WEIGHTS)}})
    commit = commit_all(Path("../.."))
    inside = mlflow.MlflowClient(f"sqlite:///{project / 'mlflow.db'}")
    (run,) = runs_of(inside, "train")
    get = f"dvc get ../.. projects/digits/{paths.WEIGHTS} --rev {commit[:12]}"
    assert get in trace(run.info.run_id, capsys)


def test_failed_run_has_an_error_only(
    store: mlflow.MlflowClient, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ValueError, match="too wet"), tracking.stage("train"):
        raise ValueError("too wet")
    output = trace(runs_of(store, "train")[0].info.run_id, capsys)
    assert "error ValueError: too wet\n" in output
    assert "it has no recorded outputs\n" in output
    assert "# To restore" not in output


def location(output: str, path: Path) -> str:
    """Return where a file is, as the output has it."""
    (line,) = [line for line in output.splitlines() if f"── {path}  " in line]
    return line.split("  ", 2)[2]


def add_to_cache(path: Path) -> Path:
    """Put a file into DVC's cache and return its object."""
    md5 = hashing.md5(path)
    cached = Path(".dvc/cache/files/md5", md5[:2], md5[2:])
    cached.parent.mkdir(parents=True)
    shutil.copy(path, cached)
    return cached


def test_location_needs_the_right_bytes(
    store: mlflow.MlflowClient, capsys: pytest.CaptureFixture[str]
) -> None:
    ran("evaluate")
    kept = hashing.md5(paths.METRICS)
    other = hashing.md5(paths.CLASSES)
    cached = add_to_cache(paths.CLASSES)
    lock({"evaluate": {paths.METRICS: kept, paths.CLASSES: other}})
    for path in (*MADE["evaluate"][1:4], paths.CLASSES):
        path.unlink()
    commit = commit_all()[:12]
    (run,) = runs_of(store, "evaluate")
    output = trace(run.info.run_id, capsys)
    assert location(output, paths.METRICS) == f"commit {commit}, MLflow's artifacts, the work tree"
    assert location(output, paths.CLASSES) == f"commit {commit}, DVC's cache, MLflow's artifacts"
    into = f"traced-{run.info.run_id[:8]}"
    for path in (paths.METRICS, paths.CLASSES):
        assert f"dvc get . {path} --rev {commit} --out {into}/{path}\n" in commands(output)

    cached.write_text("flipped")
    paths.METRICS.write_text("by hand")
    output = trace(run.info.run_id, capsys)
    assert location(output, paths.METRICS) == f"commit {commit}, MLflow's artifacts"
    assert location(output, paths.CLASSES) == "MLflow's artifacts"
    get = f"--run-id {run.info.run_id} --artifact-path {paths.CLASSES} --dst-path={into}/reports"
    assert f"mlflow artifacts download {get}\n" in commands(output)


def test_lost_files_are_reproduced(
    store: mlflow.MlflowClient, capsys: pytest.CaptureFixture[str]
) -> None:
    ran("train")
    commit = commit_all()
    edit("\nlr: 0.005", "\nlr: 0.01")
    ran("train")
    shutil.rmtree("models")
    before, after = (run.info.run_id for run in runs_of(store, "train"))
    output = trace(before, capsys)
    lost = f"{paths.WEIGHTS}, {paths.MODEL_CONFIG}"
    assert location(output, paths.WEIGHTS) == "not found"
    assert f"# not found: {lost}; the commit of its code no longer exists\n" in output
    tree = f"../again-{after[:8]}"
    patch = f"--run-id {after} --artifact-path code.patch --dst-path={tree}"
    assert commands(trace(after, capsys)).splitlines()[-4:] == [
        f"# not found: {lost}; to reproduce them:",
        f"git worktree add --detach {tree} {commit}",
        f"mlflow artifacts download {patch} && git -C {tree} apply code.patch",
        f"(cd {tree} && dvc repro train)",
    ]


@pytest.mark.long
def test_commands_restore_every_byte(tmp_path_factory: pytest.TempPathFactory) -> None:
    clone = Clone(tmp_path_factory.mktemp("clone"), tmp_path_factory.mktemp("cache"), SMALL)
    clone.type("dvc repro")
    store = mlflow.MlflowClient(f"sqlite:///{clone.path / 'mlflow.db'}")

    (train,) = runs_of(store, "train")
    output = clone.type(f"retrace trace {train.info.run_id}")
    assert (
        f"{paths.WEIGHTS}  {hashing.md5(clone.path / paths.WEIGHTS)}  DVC's cache, the work tree\n"
        in output
    )
    restore(clone, output, train, MADE["train"])

    clone.commit("digits")
    output = clone.type("cd models && retrace trace model.safetensors")
    for stage in ("train", "preprocess", "download"):
        assert runs_of(store, stage)[0].info.run_id in output
    assert hashing.md5(clone.path / CSV) in output
    (parent,) = runs_of(store, "")
    output = clone.type(f"retrace trace {parent.info.run_id}")
    assert "not found" not in output
    restore(clone, output, parent, [paths.TEST, paths.RAW, paths.METRICS, paths.FIGURES])

    clone.type("dvc exp run --temp --name aside -S lr=0.01 train")
    train = runs_of(store, "train")[-1]
    output = clone.type(f"retrace trace {train.info.run_id}")
    (model,) = restore(clone, output, train, [paths.WEIGHTS])
    md5 = run_tags.hashes(train, "outs")[str(paths.WEIGHTS)]
    assert hashing.md5(model) == md5
    assert md5 != hashing.md5(clone.path / paths.WEIGHTS)  # it never was in the work tree
    output = clone.type(f"retrace trace {model}")
    assert "of experiment aside, run " in output
    assert "lr=0.01, " in output

    (clone.path / ".dvc/cache/files/md5" / md5[:2] / md5[2:]).unlink()
    output = clone.type(f"retrace trace {train.info.run_id}")
    assert f"{md5}  not found\n" in output
    again = commands(output).partition("# not found")[2]
    clone.type(f"set -e\n#{again}")
    assert hashing.md5(clone.path.parent / f"again-{train.info.run_id[:8]}" / paths.WEIGHTS) == md5


def restore(clone: Clone, output: str, run: Run, files: list[Path]) -> list[Path]:
    """Run the commands in `output` for these files of a run; return them, after checking MD5s."""
    script = [
        line
        for line in commands(output).splitlines()
        if any(f"/{path} " in f"{line} " for path in files)
    ]
    clone.type("set -e\n" + "\n".join(script))
    restored = [clone.path / f"traced-{run.info.run_id[:8]}" / path for path in files]
    for file, path in zip(restored, files, strict=True):
        assert f"── {path}  {hashing.md5(file)}  " in output
    return restored
