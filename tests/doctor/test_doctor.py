"""`retrace doctor` in clones that are broken on purpose: each problem, and the command for it.

Checks run in this process, which has their imports; each command is typed in a shell.
"""

import hashlib
import importlib
import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import mlflow
import psutil
import pynvml
import pytest
import sqlalchemy
import torch
from alembic import command
from mlflow.store.db.utils import _get_alembic_config
from mlflow.store.tracking.dbmodels.initial_models import Base as InitialBase
from repository import ROOT, Clone, cpu_s

from lab import doctor as environment
from lab import paths
from retrace import checkpoint
from retrace import doctor as checks
from retrace.doctor import cache, experiments, leftovers, machine, pipeline, repository, store
from retrace.doctor.findings import Check, Finding
from retrace.pipeline import hashing
from retrace.system import processes

SMALL = {"dataset: mnist": "dataset: digits", "epochs: 5": "epochs: 1", "threads: 2": "threads: 1"}
TIMES_STATUS = 3.5  # CPU time over that of `dvc status`, which doctor runs too; 2.3 when written
DATABASE = Path("mlflow.db")
DECLARED = ("stage params", "stage code")

pytestmark = pytest.mark.xdist_group("doctor")


@pytest.fixture(scope="module")
def intact(tmp_path_factory: pytest.TempPathFactory) -> Clone:
    """A clone in which the stages have run once, on the digits, and were committed."""
    clone = Clone(
        tmp_path_factory.mktemp("intact") / "clone", tmp_path_factory.mktemp("cache"), SMALL
    )
    clone.env |= {"PYTHONPATH": "src", "XDG_CACHE_HOME": str(tmp_path_factory.mktemp("home"))}
    site = Path(clone.env["DVC_SITE_CACHE_DIR"])
    (site / "repo").mkdir(parents=True, mode=0o700)
    clone.type(
        "git config user.name me && git config user.email me@localhost && git branch --move main"
    )
    clone.type("dvc repro")
    clone.commit("digits")
    return clone


@pytest.fixture
def clone(intact: Clone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Clone:
    """A copy of it, to be broken, as the working directory."""
    shutil.copytree(intact.path, tmp_path / "clone", symlinks=True)
    copy = Clone.__new__(Clone)
    copy.path = tmp_path / "clone"
    copy.env = dict(intact.env)
    with closing(sqlite3.connect(copy.path / DATABASE)) as database:
        for table, column in (("experiments", "artifact_location"), ("runs", "artifact_uri")):
            moved = f"UPDATE {table} SET {column} = replace({column}, ?, ?)"  # noqa: S608
            database.execute(moved, (str(intact.path), str(copy.path)))
        database.commit()
    monkeypatch.chdir(copy.path)
    for name in [name for name in os.environ if name.startswith(("DVC_", "MLFLOW_", "RETRACE_"))]:
        monkeypatch.delenv(name)
    for name in ("DVC_SITE_CACHE_DIR", "XDG_CACHE_HOME", "RETRACE_CACHE", "GIT_CONFIG_GLOBAL"):
        monkeypatch.setenv(name, copy.env[name])
    return copy


def wrong(check: Check) -> list[Finding]:
    """Return the warnings and problems of a check."""
    return [finding for finding in check() if finding.level != "ok"]


def only(check: Check) -> Finding:
    """Return the only warning or problem of a check."""
    findings = wrong(check)
    assert len(findings) == 1, findings
    return findings[0]


def assert_repaired(clone: Clone, check: Check, what: str) -> None:
    """Assert that the check finds `what`, and nothing after its command."""
    finding = only(check)
    assert what in finding.what
    assert finding.repair
    clone.type(finding.repair)
    assert wrong(check) == []


def doctor(clone: Clone, code: int, *words: str) -> dict[str, Any]:
    return json.loads(clone.run("retrace", "doctor", "--json", *words, code=code))


def snapshot(folder: Path) -> dict[str, tuple[int, int, bytes]]:
    """Return mode, time and content of all files but those that DVC writes in `dvc status`."""
    written = (".dvc/tmp/lock", ".dvc/tmp/rwlock", ".dvc/tmp/rwlock.lock", ".dvc/tmp/btime")
    files = [file for file in sorted(folder.rglob("*")) if file.is_file() and not file.is_symlink()]
    own = {str(file.relative_to(folder)): file for file in files if "__pycache__" not in file.parts}
    return {
        name: (file.stat().st_mode, file.stat().st_mtime_ns, file.read_bytes())
        for name, file in own.items()
        if name not in written
    }


def test_doctor_is_quick_and_changes_nothing(clone: Clone) -> None:
    assert clone.run("retrace", "doctor").startswith("no problems: ")  # and compiles
    before = snapshot(clone.path)
    doctor_s = min(cpu_s(lambda: clone.run("retrace", "doctor")) for _ in range(3))
    assert doctor_s < TIMES_STATUS * min(cpu_s(lambda: clone.type("dvc status")) for _ in range(3))
    assert snapshot(clone.path) == before
    assert len(clone.run("retrace", "doctor", "--all").splitlines()) > 15


def test_problems_have_commands_and_exit_code_1(clone: Clone) -> None:
    break_several(clone)
    before = snapshot(clone.path)
    report = doctor(clone, 1)
    assert snapshot(clone.path) == before
    findings = report["findings"]
    problems = [finding["check"] for finding in findings if finding["level"] == "problem"]
    assert problems == ["runs"]
    assert (report["problem"], report["warning"]) == (1, 3)
    shown = clone.run("retrace", "doctor", code=1)
    for finding in findings:
        if finding["level"] != "ok":
            assert f"$ {finding['repair']}\n" in shown


def break_several(clone: Clone) -> None:
    """Detach HEAD, leave a run RUNNING, an object writable and an edit in the stash."""
    clone.type("git checkout --quiet $(git rev-parse HEAD)")
    set_running(clone)
    # Of no output: DVC itself makes those read-only in `dvc status`.
    digest = hashlib.md5(b"unused").hexdigest()
    unused = hashing.object_path(clone.path / ".dvc/cache/files/md5", digest)
    unused.parent.mkdir(exist_ok=True)
    unused.write_bytes(b"unused")
    (clone.path / "README.md").write_text("edited")
    clone.type("git stash --quiet")


def set_running(clone: Clone) -> None:
    """Let a run be RUNNING whose process no longer exists."""
    gone = processes.to_line(processes.identity() | {"started": 1.0})
    with closing(sqlite3.connect(clone.path / DATABASE)) as database:
        database.execute("UPDATE runs SET status = 'RUNNING', end_time = NULL WHERE name = 'train'")
        database.execute("UPDATE tags SET value = ? WHERE key = 'mlflow.retrace.process'", (gone,))
        database.commit()


def test_detached_head(clone: Clone) -> None:
    assert wrong(repository.head) == []
    clone.type("git switch --quiet --detach")
    assert wrong(repository.head) == []
    # As DVC does.
    clone.type("git switch --quiet main && git checkout --quiet $(git rev-parse HEAD)")
    assert_repaired(clone, repository.head, "HEAD is detached from main")
    clone.type("git checkout --quiet $(git rev-parse HEAD)")
    clone.commit("on no branch")
    assert wrong(repository.head) == []


KILLED = """
import os, signal
from dvc.repo.experiments.queue import base
base.BaseStashQueue._stash_commit_deps = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)
from dvc.cli import main
main(["exp", "run", "-S", "lr=0.01"])
"""


def test_edits_left_in_the_stash(clone: Clone) -> None:
    """Kill `dvc exp run` after it has stashed the user's edits, as in treeverse/dvc#10655."""
    with (clone.path / "params.yaml").open("a") as file:
        file.write("# an edit\n")
    clone.run("python", "-c", KILLED, code=-signal.SIGKILL)
    assert_repaired(clone, repository.head, "an interrupted `dvc exp run` did")
    assert "first commit or restore" in only(repository.stash).what
    clone.type("git restore --staged --worktree .")
    assert_repaired(clone, repository.stash, "an interrupted `dvc exp run` ")
    assert (clone.path / "params.yaml").read_text().endswith("# an edit\n")


def test_lock_of_a_dead_git(clone: Clone) -> None:
    lock = clone.path / ".git/index.lock"
    lock.touch()
    assert wrong(repository.lock) == []  # it may be at work
    os.utime(lock, (0, 0))
    assert_repaired(clone, repository.lock, "left behind by a killed git process")


def test_no_repository_and_no_commit(clone: Clone) -> None:
    shutil.rmtree(clone.path / ".git")
    assert "no git repository here" in only(repository.present).what
    assert wrong(repository.identity) == wrong(repository.stash) == wrong(repository.head) == []
    clone.type("git init --quiet")
    assert "no commit yet" in only(repository.present).what
    assert doctor(clone, 1)["problem"] > 0
    shutil.rmtree(clone.path / ".git")
    clone.env |= {
        f"GIT_{who}_{what}": "me" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")
    }
    assert_repaired(clone, repository.present, "no git repository here")


def test_repository_of_another_owner(clone: Clone, monkeypatch: pytest.MonkeyPatch) -> None:
    config = clone.path / ".git/global"
    config.write_text("[user]\n    name = me\n    email = me@localhost\n")
    for env in (clone.env, os.environ):
        monkeypatch.setitem(env, "GIT_CONFIG_GLOBAL", str(config))
        monkeypatch.setitem(env, "GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    cure = f"git config --global --add safe.directory {clone.path}"
    assert only(repository.present).repair == cure


def test_damaged_index(clone: Clone) -> None:
    (clone.path / ".git/index").write_bytes(b"")
    assert_repaired(clone, repository.present, "index file smaller than expected")


def test_no_author_of_commits(clone: Clone) -> None:
    clone.type("git config --unset user.name && git config --unset user.email")
    assert_repaired(clone, repository.identity, "git lacks user.name and user.email")


def test_refs_of_a_killed_dvc(clone: Clone) -> None:
    for name in ("EXEC_HEAD", "EXEC_BASELINE", "EXEC_MERGE"):
        clone.type(f"git update-ref refs/exps/exec/{name} HEAD")
    assert_repaired(
        clone, experiments.refs, "EXEC_BASELINE, EXEC_MERGE of an interrupted `dvc exp run`"
    )
    clone.type("git update-ref refs/exps/exec/EXEC_HEAD HEAD")
    assert wrong(experiments.refs) == []  # as every run leaves it


@pytest.mark.parametrize("holder", ["gone", "another"])
def test_locks_of_a_dead_dvc(clone: Clone, holder: str) -> None:
    pid = 2**22 - 1 if holder == "gone" else os.getpid()
    entry = {"pid": pid, "cmd": "dvc repro"}
    experiments.RWLOCK.write_text(
        json.dumps({"write": {"/models": entry}, "read": {"/data": [entry]}})
    )
    if holder == "another":
        entry["pid"] = psutil.Process().parents()[-1].pid  # has the number by now, and is no DVC
        experiments.RWLOCK.write_text(json.dumps({"write": {"/models": entry}}))
    assert only(experiments.locks).level == ("warning" if holder == "gone" else "problem")
    assert_repaired(clone, experiments.locks, f"1 dead process: process {entry['pid']} (dvc repro)")


@pytest.mark.parametrize("content", ["", "{", "[]", '{"write": {"a": 3}}'])
def test_damaged_list_of_locks(clone: Clone, content: str) -> None:
    experiments.RWLOCK.write_text(content)
    assert_repaired(clone, experiments.locks, "is damaged, and DVC refuses to run")
    clone.type("dvc status")


def test_experiments_without_a_baseline(clone: Clone) -> None:
    clone.commit("to be amended")
    rev = clone.type("git rev-parse HEAD").strip()
    for name in ("lost-zigs", "lost-zags"):
        clone.type(f"git update-ref refs/exps/{rev[:2]}/{rev[2:]}/{name} HEAD")
    assert wrong(experiments.baselines) == []
    clone.type("git reset --quiet --hard HEAD~1")
    assert_repaired(clone, experiments.baselines, "2 experiments are based on commits that no")


def test_unused_folders(clone: Clone) -> None:
    folder = clone.path / ".dvc/tmp/exps/tmpabc"
    folder.mkdir(parents=True)
    (folder / "file").write_bytes(bytes(2_000_000))
    assert wrong(experiments.folders) == []  # it is being set up
    os.utime(folder, (0, 0))
    assert_repaired(
        clone, experiments.folders, "1 unused folder of experiments in .dvc/tmp/exps, 2 MB"
    )


def test_task_without_a_worker(clone: Clone) -> None:
    """Leave a task as a killed worker does: its message is taken, and there is no result."""
    clone.type("dvc exp run --queue -S lr=0.01 -n crashed")
    celery = clone.path / ".dvc/tmp/exps/celery/broker"
    (message,) = (celery / "in").iterdir()
    message.rename(celery / "processed" / message.name)
    assert_repaired(clone, experiments.queue, "no worker runs it: crashed")


def test_overwritten_objects(clone: Clone) -> None:
    writable, damaged, *_ = (file for file in objects(clone) if file.suffix != ".dir")
    writable.chmod(0o644)
    finding = only(cache.objects)
    assert finding.level == "warning"
    assert finding.what.startswith("1 writable object in DVC's cache")
    damaged.chmod(0o644)
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"!")
    finding = only(cache.objects)
    assert finding.level == "problem"
    assert finding.repair == f"rm -f {damaged.relative_to(clone.path)}"
    clone.type(str(finding.repair))
    assert_repaired(clone, cache.objects, "none has changed yet")
    assert "all files match dvc.lock" in clone.type("dvc repro --quiet; retrace verify --cache")


def test_many_objects_are_hashed_in_rounds(clone: Clone, monkeypatch: pytest.MonkeyPatch) -> None:
    for file in objects(clone):
        file.chmod(0o644)
    clock = iter(range(1000))
    monkeypatch.setattr(cache.time, "monotonic", lambda: next(clock))
    repairs = []
    while len(repairs) < 100 and wrong(cache.objects):
        repairs.append(only(cache.objects).repair)
        clone.type(str(repairs[-1]))
    assert 3 < len(repairs) < 100


def objects(clone: Clone) -> list[Path]:
    return sorted((clone.path / ".dvc/cache/files/md5").glob("*/*"))


def test_outputs_are_copies(clone: Clone) -> None:
    clone.type("dvc config --local cache.type copy")
    repair = only(cache.links).repair
    clone.type(f"dvc config --local --unset cache.type && {repair}")
    assert wrong(cache.links) == []


def test_site_cache_is_open(clone: Clone, monkeypatch: pytest.MonkeyPatch) -> None:
    site = Path(clone.env["DVC_SITE_CACHE_DIR"])
    (site / "repo").chmod(0o777)
    assert_repaired(clone, cache.site, f"others can write to {site}/repo")
    monkeypatch.delenv("DVC_SITE_CACHE_DIR")
    assert not (clone.path / ".dvc/config.local").exists()
    assert_repaired(clone, cache.site, "in /var/tmp/dvc, which everybody can write to")


def test_stale_deps_and_params_are_repaired(clone: Clone) -> None:
    graph = clone.path / "dvc.yaml"
    good = graph.read_text()
    inspection = "      - src/lab/evaluation/introspection.py\n"
    text = good.replace("      - src/lab/data/split.py\n", "", 1)
    text = text.replace("      - patience\n", "", 1)
    text = text.replace(inspection, f"{inspection}      - src/lab/report\n", 1)
    text = text.replace("      - test_fraction\n", "      - test_fraction\n      - lr\n", 1)
    graph.write_text(text)
    with_environment(clone)
    stale = [each for each in doctor(clone, 1)["findings"] if each["check"] in DECLARED]
    expected = [
        ("stage params", "preprocess", "lr"),
        ("stage params", "train", "patience"),
        ("stage code", "preprocess", "src/lab/data/split.py"),
        ("stage code", "evaluate", "src/lab/report"),
    ]
    assert [each["check"] for each in stale] == [check for check, *_ in expected]
    for each, (_, stage, entry) in zip(stale, expected, strict=True):
        assert each["what"].startswith(f"{stage}: ")
        assert entry in each["what"]
    for each in stale:
        clone.type(each["repair"])
    again = [each for each in doctor(clone, 0)["findings"] if each["check"] in DECLARED]
    assert [each["level"] for each in again] == ["ok", "ok"]
    assert sorted(graph.read_text().split()) == sorted(good.split())


def with_environment(clone: Clone) -> None:
    """Let `make env` have nothing to do: this process's environment is first on PATH."""
    folder = clone.path / ".venv"
    folder.mkdir()
    for name in (".complete", ".installed", ".private"):
        (folder / name).touch()


def test_invalid_params(clone: Clone) -> None:
    file = clone.path / "params.yaml"
    file.write_text(file.read_text().replace("\nlr: ", "\nlr: abc # "))
    assert_repaired(clone, pipeline.parameters, "params.yaml: lr is 'abc'")


def test_invalid_dvc_yaml_and_dvc_lock(clone: Clone) -> None:
    for name, expected in (
        ("dvc.lock", "dvc.lock: is not valid"),
        ("dvc.yaml", "'./dvc.yaml' validation failed"),
    ):
        (clone.path / name).write_text("<<<<<<< HEAD\n")
        assert_repaired(clone, pipeline.lock, expected)


def test_stages_not_up_to_date(clone: Clone) -> None:
    file = clone.path / "params.yaml"
    file.write_text(file.read_text().replace("\nepochs: 1", "\nepochs: 2"))
    assert_repaired(clone, pipeline.status, "not up to date: train (params.yaml)")


def test_slow_status_is_not_awaited(clone: Clone, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "STATUS_S", 0.01)
    assert "hashes large files" in only(pipeline.status).what


def test_stale_runs(clone: Clone) -> None:
    set_running(clone)
    assert_repaired(
        clone, store.stale, "1 run has status RUNNING, but its process no longer exists"
    )
    assert store._stale(["a", "b"]).what.startswith("2 runs have status RUNNING, but their ")


def test_database_of_an_older_mlflow(clone: Clone) -> None:
    (clone.path / DATABASE).unlink()
    address = f"sqlite:///{clone.path / DATABASE}"
    _, head = store._revisions()
    engine = sqlalchemy.create_engine(address)
    InitialBase.metadata.create_all(engine)
    engine.dispose()
    command.upgrade(_get_alembic_config(address), revision_before(head))
    assert_repaired(clone, store.schema, f"of an older MLflow; {mlflow.__version__} needs {head}")


def revision_before(head: str) -> str:
    """Return the schema before the newest."""
    folder = Path(mlflow.__file__).parent / "store/db_migrations/versions"
    texts = [file.read_text() for file in folder.glob("*.py")]
    (text,) = [text for text in texts if f'\nrevision = "{head}"\n' in text]
    (line,) = [line for line in text.splitlines() if line.startswith("down_revision")]
    return line.split('"')[1]


def runs() -> list[tuple[object, ...]]:
    """Return the runs and their metrics."""
    joined = "runs LEFT JOIN latest_metrics AS m USING (run_uuid)"
    query = f"SELECT name, status, key, m.value FROM {joined} ORDER BY 1, 2, 3"  # noqa: S608
    with closing(sqlite3.connect(DATABASE)) as database:
        return database.execute(query).fetchall()


def test_database_of_a_newer_mlflow(clone: Clone) -> None:
    with closing(sqlite3.connect(DATABASE)) as database:
        database.execute("UPDATE alembic_version SET version_num = 'feedfacecafe'")
        database.commit()
    assert_repaired(
        clone, store.schema, f"feedfacecafe of a newer MLflow than {mlflow.__version__}"
    )
    assert list((clone.path / ".retrace").glob("mlflow.db-*/mlflow.db"))


@pytest.mark.parametrize("damage", ["text", "page", "empty"])
def test_damaged_database_is_restored(clone: Clone, damage: str) -> None:
    before = runs()
    content = DATABASE.read_bytes()
    for beside in ("-wal", "-shm"):
        Path(f"{DATABASE}{beside}").unlink(missing_ok=True)
    broken = {
        "text": b"no database",
        "page": content[:4096] + bytes(4096 * 8) + content[4096 * 9 :],
        "empty": b"",
    }[damage]
    DATABASE.write_bytes(broken)
    if damage != "page":
        assert wrong(store.schema) == wrong(store.stale) == wrong(store.artifacts) == []
    assert_repaired(clone, store.answers, "is empty" if damage == "empty" else "is damaged")
    if damage != "empty":
        assert runs() == before


def test_artifacts_of_a_moved_repository(clone: Clone, tmp_path: Path) -> None:
    shutil.move(clone.path, tmp_path / "moved")
    clone.path = tmp_path / "moved"
    os.chdir(clone.path)
    assert_repaired(clone, store.artifacts, "the repository moved")
    client = mlflow.MlflowClient(f"sqlite:///{clone.path / DATABASE}")
    (run,) = [run for run in client.search_runs(["1"]) if run.info.run_name == "evaluate"]
    metrics = client.download_artifacts(run.info.run_id, str(paths.METRICS), str(tmp_path))
    assert Path(metrics).is_file()


def test_artifacts_are_gone(clone: Clone) -> None:
    shutil.rmtree(clone.path / "mlruns")
    assert_repaired(clone, store.artifacts, "new ones will be written there")


def test_large_write_ahead_log(clone: Clone, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "BIG_WAL", 1e6)
    script = """
import os, sqlite3
database = sqlite3.connect("mlflow.db")
database.execute("PRAGMA wal_autocheckpoint = 0")
database.execute("CREATE TABLE more (bytes)")
database.execute("INSERT INTO more VALUES (zeroblob(2000000))")
database.commit()
os._exit(0)
"""
    clone.run("python", "-c", script)
    assert_repaired(clone, store.waiting, "mlflow.db has a write-ahead log of 2 MB")


def test_server_is_down(clone: Clone, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:canary@127.0.0.1:9")
    finding = only(store.answers)
    assert "MLFLOW_TRACKING_URI: http://***@127.0.0.1:9 does not answer" in finding.what
    assert finding.repair == "unset MLFLOW_TRACKING_URI"
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert wrong(store.answers) == []


def test_server_never_answers(clone: Clone, monkeypatch: pytest.MonkeyPatch) -> None:
    importlib.import_module("retrace.store.backend")  # takes seconds
    with socket.create_server(("127.0.0.1", 0)) as silent:  # accepts, and sends nothing
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{silent.getsockname()[1]}")
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
        began = time.monotonic()
        assert "MLFLOW_HTTP_REQUEST_TIMEOUT" in only(store.answers).what
        assert time.monotonic() - began < 3


@pytest.mark.parametrize(
    ("uri", "remedy"),
    [("mysql+pymysql://me:canary@127.0.0.1:9/runs", "pip install pymysql"), ("foo://x", "http://")],
)
def test_store_is_unavailable(
    clone: Clone, monkeypatch: pytest.MonkeyPatch, uri: str, remedy: str
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    finding = only(store.answers)
    assert remedy in finding.what
    assert "canary" not in finding.what


def test_event_log_is_not_uploaded(clone: Clone) -> None:
    done = next((clone.path / ".retrace/journal/uploaded").glob("*.jsonl"))
    done.rename(done.parent.parent / done.name)
    assert_repaired(clone, leftovers.journals, "events of 1 finished stage are not in MLflow yet")


def test_interrupted_training(clone: Clone) -> None:
    folder = clone.path / checkpoint.FOLDER / "abc"
    folder.mkdir(parents=True)
    (folder / "1.safetensors").write_bytes(bytes(1_500_000))
    with processes.try_lock(folder):
        assert wrong(leftovers.checkpoints) == []  # it is running
    assert_repaired(clone, leftovers.checkpoints, "of 1 interrupted training, 1.5 MB")


def test_python_is_too_old(clone: Clone, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment.platform, "python_version", lambda: "3.10.4")
    finding = only(environment.python)
    assert finding.what == "Python 3.10.4; pyproject.toml allows >=3.11,<3.14"
    assert finding.repair == "rm -rf .venv && make PYTHON=python3.12 env"


def test_missing_and_other_packages(clone: Clone) -> None:
    file = clone.path / "requirements.txt"
    text = file.read_text()
    changed = text.replace("\nnumpy==", "\nnumpy==9.")
    file.write_text(changed.replace("\npillow==", "\nnever-published=="))
    state = only(environment.packages).what
    assert "2 of " in state
    assert f"numpy is {text.split('numpy==')[1].split(' ')[0]}, not 9." in state
    assert "never-published is missing, not " in state


def test_packages_for_other_systems(clone: Clone) -> None:
    with (clone.path / "requirements.txt").open("a") as file:
        file.write("for-windows==1.0 ; sys_platform == 'win32' \\\n    --hash=sha256:0\n")
    assert wrong(environment.packages) == []


def test_code_of_another_repository(clone: Clone) -> None:
    finding = only(environment.code)  # this process has the code of ROOT
    assert f"runs the code in {ROOT / 'src/retrace'}, not" in finding.what
    assert finding.repair == "make env && . .venv/bin/activate"
    assert list(environment.stage_code()) == []  # not checked with that code


class Memory:
    free, total = 70e9, 80e9


def with_gpu(monkeypatch: pytest.MonkeyPatch, cuda: int = 13000) -> None:
    for name, value in {
        "nvmlInit": None,
        "nvmlShutdown": None,
        "nvmlDeviceGetCount": 1,
        "nvmlDeviceGetHandleByIndex": 0,
        "nvmlDeviceGetName": "NVIDIA H100",
        "nvmlDeviceGetMemoryInfo": Memory,
        "nvmlSystemGetDriverVersion": "580.1",
        "nvmlSystemGetCudaDriverVersion_v2": cuda,
    }.items():
        monkeypatch.setattr(pynvml, name, lambda *_, value=value: value)


def test_gpu_is_usable_or_not(monkeypatch: pytest.MonkeyPatch) -> None:
    with_gpu(monkeypatch)
    (finding,) = environment.gpu()
    assert finding.what.startswith("NVIDIA H100, 70 of 80 GB free; driver 580.1")
    assert finding.what.endswith(f"CUDA {torch.version.cuda}")
    with_gpu(monkeypatch, 12020)
    assert "driver 580.1 supports CUDA 12.2, torch was built for 13" in only(environment.gpu).what
    with_gpu(monkeypatch)
    monkeypatch.setattr(environment, "_cuda_of_torch", lambda: None)
    assert "it is a CPU build" in only(environment.gpu).what


@pytest.mark.parametrize(
    ("error", "level"),
    [
        (pynvml.NVML_ERROR_LIBRARY_NOT_FOUND, "ok"),
        (pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH, "warning"),
    ],
)
def test_gpu_driver_fails(monkeypatch: pytest.MonkeyPatch, error: int, level: str) -> None:
    def fails() -> None:
        raise pynvml.NVMLError(error)

    monkeypatch.setattr(pynvml, "nvmlInit", fails)
    (finding,) = environment.gpu()
    assert finding.level == level


def test_bfloat16_is_as_torch_has_it() -> None:
    (finding,) = environment.processor()
    native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    assert ("bfloat16 is native" in finding.what) == native


def test_little_memory_and_a_full_disk(clone: Clone, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "LEAST_MEMORY", 1e15)
    assert "GB of memory are free" in only(machine.memory).what
    monkeypatch.setattr(machine, "LEAST_DISK", 1e15)
    monkeypatch.setattr(machine, "LEAST_FILES", 2**62)
    problems = wrong(machine.disks)
    assert {each.level for each in problems} == {"problem"}
    junk = clone.path / ".dvc/cache/files/md5/ff/" / ("f" * 30)
    junk.parent.mkdir(exist_ok=True)
    junk.write_bytes(b"unused")
    clone.type(f"yes | {problems[0].repair}")
    assert not junk.exists()
    assert "all files match dvc.lock" in clone.type("retrace verify --cache")


def test_failing_and_hanging_checks(clone: Clone, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> Iterator[Finding]:
        raise ModuleNotFoundError("No module named 'psutil'")
        yield

    def hangs() -> Iterator[Finding]:
        time.sleep(60)
        yield from ()

    monkeypatch.setattr(checks, "ANSWER_S", 1.0)
    monkeypatch.setattr(leftovers, "CHECKS", {"broken": broken, "works": leftovers.checkpoints})
    monkeypatch.setattr(cache, "CHECKS", {"cache": hangs})
    monkeypatch.setattr(pipeline, "CHECKS", {})
    problems = {each.check: each for each in checks.examine() if each.level == "problem"}
    assert "a package is missing or broken" in problems["broken"].what
    assert problems["broken"].repair == "rm -f .venv/.complete && make env"
    assert problems["cache"].what.startswith("no answer within 1 s")


@pytest.mark.parametrize(
    "package", ["psutil", "yaml", "pynvml", "rich", "packaging", "requests", "dvc", "mlflow"]
)
def test_broken_package_costs_its_checks(clone: Clone, tmp_path: Path, package: str) -> None:
    """Without rich, which shows the findings in colour, they are printed plainly."""
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / f"{package}.py").write_text("raise ImportError('broken on purpose')\n")
    clone.env |= {"PYTHONPATH": f"{broken}{os.pathsep}src"}
    printed = clone.run("retrace", "doctor", "--all", code=0 if package == "requests" else 1)
    assert "ok git " in printed
    assert "Traceback" not in printed


def document(clone: Clone, *command: str, code: int = 0) -> Any:
    """Return the JSON that is all of the command's stdout."""
    ended = subprocess.run(
        ["retrace", *command, "--json"],
        cwd=clone.path,
        env=clone.env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == code, ended.stderr
    return json.loads(ended.stdout)


def run_id(stage: str) -> str:
    with closing(sqlite3.connect(DATABASE)) as database:
        return database.execute("SELECT run_uuid FROM runs WHERE name = ?", (stage,)).fetchone()[0]


def test_commands_with_runs_have_json(clone: Clone) -> None:
    assert document(clone, "sync") == {
        "uploaded": 0,
        "closed": 0,
        "added": 0,
        "running": [],
        "failed": [],
        "skipped": [],
    }
    assert document(clone, "reconcile") == {"put_back": [], "removed": []}
    traced = document(clone, "trace", str(paths.WEIGHTS))
    assert {run["stage"] for run in traced["runs"].values()} == {"download", "preprocess", "train"}
    assert traced["runs"][traced["made_by"]]["stage"] == "train"
    train = document(clone, "trace", run_id("train"))
    assert str(paths.WEIGHTS) in {file["path"] for file in train["stages"][0]["files"]}
    clone.type("\n".join(train["commands"]))
    assert (clone.path / f"traced-{run_id('train')[:8]}" / paths.WEIGHTS).is_file()
    damaged = Path(".dvc/cache/files/md5", traced["md5"][:2], traced["md5"][2:])
    damaged.chmod(0o644)
    damaged.write_bytes(b"other")
    verified = document(clone, "verify", "--cache", code=1)
    assert {each["out"] for each in verified["damaged"]} == {str(paths.WEIGHTS)}
    Path(paths.WEIGHTS).unlink(missing_ok=True)
    damaged.unlink()
    assert document(clone, "verify", "--cache")["absent"] == [str(paths.WEIGHTS)]
    clone.type(verified["repair"])
    assert document(clone, "verify", "--cache").items() >= {"damaged": [], "absent": []}.items()


@pytest.mark.slow
def test_verify_prints_only_json(clone: Clone) -> None:
    verdict = document(clone, "verify", run_id("train"))
    assert verdict["verified"]
    assert {row["what"] for row in verdict["rows"]} > {str(paths.WEIGHTS), "val_loss"}
    assert all(row["equal"] for row in verdict["rows"])


@pytest.mark.faults
def test_environment_is_rebuilt(tmp_path: Path) -> None:
    """With the real command, which takes all packages from uv's cache, or from the network."""
    clone = Clone(tmp_path / "clone", tmp_path, SMALL)
    home = {name: os.environ[name] for name in ("HOME", "XDG_CACHE_HOME") if name in os.environ}
    clone.env |= {"PATH": f"{clone.path / '.venv/bin'}{os.pathsep}{os.environ['PATH']}", **home}
    subprocess.run(["make", "env"], cwd=clone.path, env=clone.env, capture_output=True, check=True)
    clone.type(".venv/bin/uv pip uninstall --quiet shtab jinja2")
    before = {each["check"]: each for each in doctor(clone, 1)["findings"]}
    assert "jinja2 is missing" in before["packages"]["what"]
    assert before["code"]["level"] == "ok"
    clone.type(before["packages"]["repair"])
    again = {each["check"]: each for each in doctor(clone, 0)["findings"]}
    assert again["packages"]["level"] == "ok"
