"""`retrace sync` and cached stages: complete runs in MLflow, from whatever DVC ran or skipped."""

import json
import shutil
import sqlite3
import subprocess
from pathlib import Path

import mlflow
import pytest
import yaml
from faults.servers import rows
from mlflow import environment_variables
from mlflow.entities import Run
from mlflow.protos import databricks_pb2 as mlflow_errors
from mlflow_runs import erase
from repository import ROOT
from sqlalchemy.exc import OperationalError

from lab import params, paths
from retrace import errors, event_log
from retrace.cli import sync
from retrace.event_log import EventLog
from retrace.pipeline import hashing, loading, params_yaml
from retrace.store import backend
from retrace.store.runs import DURATION
from retrace.system import processes
from retrace.tracking import stage

STAGES = list(params.STAGES)
WHO = ("-c", "user.name=test", "-c", "user.email=test@localhost")
HEADLINES = {
    "train": "val_accuracy",
    "evaluate": "test_accuracy",
    "visualize": "tsne_kl_divergence",
}

pytestmark = pytest.mark.usefixtures("beside")


@pytest.fixture
def store(folder: Path, empty_store: Path) -> mlflow.MlflowClient:
    """The store of `folder`, a repository with the code."""
    shutil.copy(empty_store, folder / "mlflow.db")
    for name in ("src", "stages"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    paths.IMAGES.mkdir(parents=True)
    (paths.IMAGES / "README.md").write_text("yours")
    (folder / ".gitignore").write_text(
        "/data/raw\n/data/processed\n/models/\nmlflow.db*\nmlruns/\n.retrace/\n"
    )
    git("init", "--quiet")
    commit("start")
    return mlflow.MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")


def git(*command: str) -> str:
    return subprocess.run(
        ["git", *command], capture_output=True, text=True, check=True
    ).stdout.strip()


def commit(message: str) -> str:
    git("add", "--all")
    git(*WHO, "commit", "--quiet", "--allow-empty", "-m", message)
    return git("rev-parse", "HEAD")


def run(*stages: str) -> None:
    """Run stages whose outputs depend on their parameters and dependencies."""
    values = params_yaml.read()
    for name in stages:
        declared = loading.load(Path()).stages[name]
        read = [
            hashing.md5(Path(dep))
            for dep in declared.deps
            if Path(dep).exists() and dep.split("/")[0] != "src"
        ]
        with stage.stage(name) as record:
            for out in (out.path for out in declared.outs):
                file = Path(out) / "file" if out in ("data/raw", "reports/figures") else Path(out)
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(json.dumps([out, params.chosen(values, params.STAGES[name]), read]))
            if name in HEADLINES:
                record.summary({HEADLINES[name]: values["lr"] * len(name)})


def hashed(path: str) -> dict[str, str]:
    return {"path": path, "hash": "md5", "md5": hashing.md5(Path(path))}


def lock() -> None:
    """Write dvc.lock as DVC does."""
    values = params_yaml.read()
    stages = {
        name: {
            "cmd": stage.commands[0],
            "deps": [hashed(dep) for dep in stage.deps],
            "params": {"params.yaml": params.chosen(values, params.STAGES[name])},
            "outs": [hashed(out.path) for out in stage.outs],
        }
        for name, stage in loading.load(Path()).stages.items()
    }
    Path("dvc.lock").write_text(yaml.safe_dump({"schema": "2.0", "stages": stages}))


def set_lr(lr: str) -> None:
    text = paths.PARAMS.read_text()
    paths.PARAMS.write_text(text.replace(f"\nlr: {params_yaml.read()['lr']}", f"\nlr: {lr}"))


def parents(store: mlflow.MlflowClient) -> list[Run]:
    """Return the runs of experiments, oldest first."""
    runs = store.search_runs(["1"], order_by=["start_time ASC"])
    return [run for run in runs if "mlflow.parentRunId" not in run.data.tags]


def compared(run: Run) -> dict[str, float]:
    """Return an experiment's metrics, without its duration."""
    return {name: value for name, value in run.data.metrics.items() if name != DURATION}


def linked(run: Run) -> dict[str, set[str]]:
    """Return the stages that an experiment ran, and those linked from others."""
    return {
        kind: {stage for stage in STAGES if f"{prefix}.{stage}" in run.data.tags}
        for kind, prefix in (("run", "mlflow.retrace.run"), ("cached", "retrace.cached"))
    }


def test_earlier_stages_are_linked(
    store: mlflow.MlflowClient,
) -> None:
    run(*STAGES)
    set_lr("0.01")
    run("train", "evaluate", "visualize")
    first, second = parents(store)
    assert linked(first) == {"run": set(STAGES), "cached": set()}
    assert linked(second) == {
        "run": {"train", "evaluate", "visualize"},
        "cached": {"download", "preprocess"},
    }
    for name in ("download", "preprocess"):
        own = first.data.tags[f"mlflow.retrace.run.{name}"]
        assert second.data.tags[f"retrace.cached.{name}"] == own


def test_later_stages_of_same_bytes_are_linked(
    store: mlflow.MlflowClient,
) -> None:
    run(*STAGES)
    Path("src/lab/training/loop.py").write_text(
        "# another comment\n" + Path("src/lab/training/loop.py").read_text()
    )
    run("train")
    first, second = parents(store)
    assert linked(second) == {
        "run": {"train"},
        "cached": {"download", "preprocess", "evaluate", "visualize"},
    }
    assert compared(second) == compared(first)
    assert set(compared(second)) == set(HEADLINES.values())


@pytest.mark.usefixtures("store")
def test_refusal_of_git_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    subprocess.run(["git", "init", "--quiet"], check=True)
    sync.sync(as_json=True)
    assert json.loads(capsys.readouterr().out)["skipped"] == []
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    sync.sync(as_json=True)
    (skipped,) = json.loads(capsys.readouterr().out)["skipped"]
    assert f"git config --global --add safe.directory {Path.cwd()}" in skipped


def test_run_replaces_its_link(
    store: mlflow.MlflowClient,
) -> None:
    run(*STAGES)
    Path("src/lab/training/loop.py").write_text(
        "# another comment\n" + Path("src/lab/training/loop.py").read_text()
    )
    run("train", "evaluate")
    _, second = parents(store)
    assert linked(second) == {
        "run": {"train", "evaluate"},
        "cached": {"download", "preprocess", "visualize"},
    }


def test_stages_after_other_bytes_are_unlinked(store: mlflow.MlflowClient) -> None:
    run(*STAGES)
    set_lr("0.01")
    run("train")
    _, second = parents(store)
    assert linked(second) == {"run": {"train"}, "cached": {"download", "preprocess"}}
    assert set(compared(second)) == {"val_accuracy"}


def test_failed_stage_made_nothing(store: mlflow.MlflowClient) -> None:
    with pytest.raises(ValueError, match="wet"), stage.stage("download"):
        paths.RAW.mkdir(parents=True)
        (paths.RAW / "file").write_text("half")
        raise ValueError("wet")
    shutil.rmtree(paths.RAW)
    run("download", "preprocess")
    (parent,) = parents(store)
    failed, finished = store.search_runs(
        ["1"], "tags.`retrace.stage` = 'download'", order_by=["start_time"]
    )
    assert (
        failed.data.tags["mlflow.retrace.attempt"],
        finished.data.tags["mlflow.retrace.attempt"],
    ) == (
        "1",
        "2",
    )
    assert finished.info.run_name == "download (2)"
    assert parent.data.tags["mlflow.retrace.run.download"] == finished.info.run_id
    assert parent.info.status == "FINISHED"


@pytest.mark.usefixtures("store")
def test_uncommitted_code_is_kept_as_a_patch(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    git("config", "diff.noprefix", "true")
    git("config", "color.ui", "always")
    file = Path("src/lab/training/loop.py")
    new = Path("src/lab/training/new.py")
    file.write_bytes(b"# caf\xe9\r\n" + file.read_bytes())
    new.write_bytes(b"# new\r\n")
    with stage.stage("download") as record:
        pass
    assert (
        git("status", "--porcelain").splitlines()[-1] == "?? src/lab/training/new.py"
    )  # the index is as it was
    (run,) = mlflow.MlflowClient("sqlite:///mlflow.db").search_runs(
        ["1"], f"tags.`mlflow.retrace.journal` = '{record.id}'"
    )
    patch = mlflow.MlflowClient("sqlite:///mlflow.db").download_artifacts(
        run.info.run_id, "code.patch"
    )
    again = tmp_path_factory.mktemp("again")
    git("clone", "--quiet", ".", str(again))
    git("-C", str(again), "apply", "--whitespace=nowarn", patch)
    for path in (file, new):
        assert (again / path).read_bytes() == path.read_bytes()


@pytest.fixture
def experiment(store: mlflow.MlflowClient) -> str:
    """The commit of a DVC experiment all of whose stages came from the cache."""
    run(*STAGES)
    lock()
    baseline = commit("locked")
    file = Path("stages/download.py")
    file.write_text("# another comment\n" + file.read_text())
    lock()
    rev = commit("experiment")
    git("update-ref", f"refs/exps/{baseline[:2]}/{baseline[2:]}/tamed-zigs", rev)
    git("reset", "--quiet", "--hard", baseline)
    return rev


def test_sync_adds_a_fully_cached_experiment(store: mlflow.MlflowClient, experiment: str) -> None:
    sync.sync()
    first, second = sorted(parents(store), key=lambda parent: "dvc.exp_rev" in parent.data.tags)
    assert second.data.tags["dvc.exp_rev"] == experiment
    assert (second.info.run_name, second.info.status) == ("tamed-zigs", "FINISHED")
    assert second.data.tags["dvc.baseline_rev"] == git("rev-parse", "HEAD")
    assert linked(second) == {"run": set(), "cached": set(STAGES)}
    assert compared(second) == compared(first)
    assert second.data.params == first.data.params


def test_second_sync_changes_no_row(store: mlflow.MlflowClient, experiment: str) -> None:
    assert len(parents(store)) == 1
    sync.sync()
    before = rows("sqlite:///mlflow.db")
    sync.sync()
    assert rows("sqlite:///mlflow.db") == before


def test_sync_adds_the_commit_of_an_experiment(
    store: mlflow.MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    baseline = commit("baseline")
    monkeypatch.setenv("DVC_EXP_NAME", "tamed-zigs")
    monkeypatch.setenv("DVC_EXP_BASELINE_REV", baseline)
    set_lr("0.01")
    run(*STAGES)
    lock()
    rev = commit("experiment")
    git("update-ref", f"refs/exps/{baseline[:2]}/{baseline[2:]}/tamed-zigs", rev)
    sync.sync()
    (parent,) = parents(store)
    assert parent.data.tags["dvc.exp_rev"] == rev
    assert linked(parent) == {"run": set(STAGES), "cached": set()}


@pytest.mark.parametrize("is_known", [False, True])
def test_experiment_of_another_clone_keeps_name(
    store: mlflow.MlflowClient, experiment: str, is_known: bool
) -> None:
    sync.sync()
    (parent,) = [run for run in parents(store) if "dvc.exp_rev" in run.data.tags]
    if is_known:  # it was here, and is removed: nobody else's
        other = git(*WHO, "commit-tree", "-m", "other", f"{experiment}^{{tree}}")
    else:
        other = "0123456789abcdef0123456789abcdef01234567"
    store.set_tag(parent.info.run_id, "dvc.exp_name", "other")
    store.set_tag(parent.info.run_id, "dvc.exp_rev", other)
    sync.sync()
    tags = store.get_run(parent.info.run_id).data.tags
    assert (tags["dvc.exp_name"], tags["dvc.exp_rev"]) == (
        ("tamed-zigs", experiment) if is_known else ("other", other)
    )
    before = rows("sqlite:///mlflow.db")
    sync.sync()
    assert rows("sqlite:///mlflow.db") == before


def test_running_experiment_keeps_its_name(store: mlflow.MlflowClient, experiment: str) -> None:
    sync.sync()
    (parent,) = [run for run in parents(store) if "dvc.exp_rev" in run.data.tags]
    store.set_tag(parent.info.run_id, "dvc.exp_name", "other")
    store.delete_tag(parent.info.run_id, "dvc.exp_rev")
    store.delete_tag(parent.info.run_id, "retrace.source")  # it is tracked, not imported
    store.update_run(parent.info.run_id, "RUNNING")
    before = rows("sqlite:///mlflow.db")
    sync.sync()
    assert rows("sqlite:///mlflow.db") == before


def test_lock_of_other_parameters_is_ignored(store: mlflow.MlflowClient) -> None:
    run(*STAGES)
    lock()
    set_lr("0.01")
    sync.sync()
    assert [parent.data.params["lr"] for parent in parents(store)] == ["0.005"]


def test_metrics_come_from_the_commit(
    store: mlflow.MlflowClient,
) -> None:
    run(*STAGES)
    paths.METRICS.write_text('{"test_accuracy": 0.75}')
    lock()
    for each in store.search_runs(["1"]):
        erase(store, each.info.run_id)
    sync.sync()
    (parent,) = parents(store)
    assert parent.data.metrics == {"test_accuracy": 0.75}


def test_unknown_stage_is_completed_once(
    store: mlflow.MlflowClient, capsys: pytest.CaptureFixture[str]
) -> None:
    run(*STAGES)
    lock()
    (drawn,) = store.search_runs(["1"], "tags.`retrace.stage` = 'visualize'")
    erase(store, drawn.info.run_id)
    erase(store, parents(store)[0].info.run_id)  # as in a clone whose figures git has
    for completed in (1, 0):
        sync.sync()
        assert f"added or completed: {completed} experiment" in capsys.readouterr().out
    assert linked(parents(store)[0]) == {"run": set(STAGES), "cached": set()}


def test_event_log_without_process_is_uploaded(
    store: mlflow.MlflowClient,
) -> None:
    run("download")
    gone = processes.identity() | {"started": 1.0}  # another process had the number then
    left = unfinished(gone)
    alive = unfinished(processes.identity())
    sync.sync()
    sync.sync()
    assert event_log.pending(event_log.folder()) == [alive]
    (killed,) = store.search_runs(["1"], f"tags.`mlflow.retrace.journal` = '{left.stem}'")
    assert killed.info.status == "KILLED"
    assert killed.info.end_time == event_log.read(left.parent / "uploaded" / left.name)[-2]["time"]
    assert killed.data.tags["retrace.error"]
    assert killed.data.metrics == {"val_loss": 1.0}


def unfinished(process: processes.Identity) -> Path:
    """Write an event log without an end, of `process`."""
    done = next((event_log.folder() / "uploaded").glob("*.jsonl"))
    header = {
        name: value
        for name, value in event_log.read(done)[0].items()
        if name not in ("kind", "time", "id")
    }
    record = EventLog(event_log.folder(), **header | {"process": process})
    record.metrics({"val_loss": 1.0}, 1)
    return record.path


def test_run_without_process_is_closed(store: mlflow.MlflowClient) -> None:
    run("download")
    (child,) = store.search_runs(["1"], "tags.`retrace.stage` = 'download'")
    store.set_tag(
        child.info.run_id,
        "mlflow.retrace.process",
        processes.to_line(processes.identity() | {"pid": 2**22 - 1}),
    )
    store.update_run(child.info.run_id, "RUNNING")
    sync.sync()
    assert store.get_run(child.info.run_id).info.status == "KILLED"
    assert parents(store)[0].info.status == "KILLED"


def test_run_of_live_process_stays_open(store: mlflow.MlflowClient) -> None:
    run("download")
    (child,) = store.search_runs(["1"], "tags.`retrace.stage` = 'download'")
    store.update_run(child.info.run_id, "RUNNING")
    sync.sync()
    assert store.get_run(child.info.run_id).info.status == "RUNNING"


def test_run_of_another_machine_stays_open(
    store: mlflow.MlflowClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run("download")
    (child,) = store.search_runs(["1"], "tags.`retrace.stage` = 'download'")
    store.update_run(child.info.run_id, "RUNNING")
    monkeypatch.setattr(processes, "MACHINE", tmp_path / "machine-id")
    processes.MACHINE.write_text("another")
    monkeypatch.setattr(processes, "BOOT", tmp_path / "boot_id")
    processes.BOOT.write_text("another")
    sync.sync()
    assert store.get_run(child.info.run_id).info.status == "RUNNING"


@pytest.mark.parametrize(
    ("code", "remedy"),
    [
        ("UNAUTHENTICATED", "MLFLOW_TRACKING_PASSWORD"),
        ("PERMISSION_DENIED", "EDIT"),
        ("INTERNAL_ERROR", "start it"),
    ],
)
def test_server_error_names_the_remedy(
    monkeypatch: pytest.MonkeyPatch, code: str, remedy: str
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
    with pytest.raises(errors.RetraceError, match=remedy), backend.mlflow_errors():
        raise mlflow.MlflowException("no", error_code=getattr(mlflow_errors, code))


@pytest.mark.usefixtures("store")
def test_database_error_omits_the_sql() -> None:
    with pytest.raises(errors.RetraceError) as caught, backend.mlflow_errors():
        raise OperationalError(
            "SELECT name FROM x", {}, sqlite3.OperationalError("unable to open database file")
        )
    assert "unable to open database file" in str(caught.value)
    assert "SELECT" not in str(caught.value)


def test_closed_pipe_is_no_mlflow_error() -> None:
    with pytest.raises(BrokenPipeError), backend.mlflow_errors():
        raise BrokenPipeError


@pytest.mark.usefixtures("store")
def test_patience_lengthens_the_timeout() -> None:
    backend.client()
    limit = environment_variables.MLFLOW_HTTP_REQUEST_TIMEOUT
    usual = limit.get()
    with backend.request_timeout(usual + 56):
        assert limit.get() == usual + 56
    with backend.request_timeout(1):
        assert limit.get() == usual
    assert limit.get() == usual


@pytest.mark.usefixtures("store")
def test_password_is_redacted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:canary@127.0.0.1:9")
    with pytest.raises(
        errors.RetraceError,
        match=r"^http://\*\*\*@127.0.0.1:9 [^\n]*$",
    ):
        sync.sync()
