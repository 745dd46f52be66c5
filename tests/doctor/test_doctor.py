"""`retrace doctor` in clones that are broken on purpose: what is wrong is found, and its command mends it.

A check is asked in this process, which has its imports; each command is typed at the shell's prompt.
"""

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
from retrace.system import processes

SMALL = {"dataset: mnist": "dataset: digits", "epochs: 5": "epochs: 1", "threads: 2": "threads: 1"}
WITHIN_S = 3.0  # of a processor, whatever else is at work on it
DATABASE = Path("mlflow.db")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Clone:
    """A clone in which the stages have run once, on the digits, and were committed."""
    clone = Clone(
        tmp_path_factory.mktemp("whole") / "clone", tmp_path_factory.mktemp("cache"), SMALL
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
def clone(whole: Clone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Clone:
    """A copy of it, to be broken; this process is in it."""
    shutil.copytree(whole.path, tmp_path / "clone", symlinks=True)
    copy = Clone.__new__(Clone)
    copy.path, copy.env = tmp_path / "clone", dict(whole.env)
    with closing(sqlite3.connect(copy.path / DATABASE)) as database:
        for table, column in (("experiments", "artifact_location"), ("runs", "artifact_uri")):
            moved = f"UPDATE {table} SET {column} = replace({column}, ?, ?)"  # noqa: S608 - of names above
            database.execute(moved, (str(whole.path), str(copy.path)))
        database.commit()
    monkeypatch.chdir(copy.path)
    for name in [name for name in os.environ if name.startswith(("DVC_", "MLFLOW_", "RETRACE_"))]:
        monkeypatch.delenv(name)
    for name in ("DVC_SITE_CACHE_DIR", "XDG_CACHE_HOME", "RETRACE_CACHE", "GIT_CONFIG_GLOBAL"):
        monkeypatch.setenv(name, copy.env[name])
    return copy


def wrong(check: Check) -> list[Finding]:
    return [finding for finding in check() if finding.level != "ok"]


def only(check: Check) -> Finding:
    """What alone is wrong."""
    found = wrong(check)
    assert len(found) == 1, found
    return found[0]


def mended(clone: Clone, check: Check, said: str, prefix: str = "") -> None:
    """The check says so; after its command nothing is wrong."""
    found = only(check)
    assert said in found.what
    assert found.repair
    clone.type(prefix + found.repair)
    assert wrong(check) == []


def doctor(clone: Clone, code: int, *words: str) -> dict[str, Any]:
    return json.loads(clone.run("retrace", "doctor", "--json", *words, code=code))


def everything(folder: Path) -> dict[str, tuple[int, int, bytes]]:
    """All files but those that DVC itself writes when it is asked: mode, time, content."""
    asked = (".dvc/tmp/lock", ".dvc/tmp/rwlock", ".dvc/tmp/rwlock.lock", ".dvc/tmp/btime")
    files = [file for file in sorted(folder.rglob("*")) if file.is_file() and not file.is_symlink()]
    own = {str(file.relative_to(folder)): file for file in files if "__pycache__" not in file.parts}
    return {
        name: (file.stat().st_mode, file.stat().st_mtime_ns, file.read_bytes())
        for name, file in own.items()
        if name not in asked
    }


def test_where_all_is_well_it_says_so_quickly_and_changes_nothing(clone: Clone) -> None:
    clone.run("retrace", "doctor")  # compiles
    before, took, said = everything(clone.path), list[float](), list[str]()
    for _ in range(3):
        took.append(cpu_s(lambda: said.append(clone.run("retrace", "doctor"))))
    assert said[0].startswith("no problems: ")
    assert min(took) < WITHIN_S
    assert everything(clone.path) == before
    assert len(clone.run("retrace", "doctor", "--all").splitlines()) > 15


def test_what_is_wrong_is_told_with_its_command_and_1_and_nothing_is_changed(clone: Clone) -> None:
    hurt(clone)
    before = everything(clone.path)
    found = doctor(clone, 1)
    assert everything(clone.path) == before
    assert {finding["check"] for finding in found["findings"] if finding["level"] == "problem"} == {
        "runs"
    }
    assert (found["problem"], found["warning"]) == (1, 3)
    shown = clone.run("retrace", "doctor", code=1)
    for finding in found["findings"]:
        if finding["level"] != "ok":
            assert f"$ {finding['repair']}\n" in shown
    assert "`retrace doctor` again" in shown


def hurt(clone: Clone) -> None:
    """Something of everything is wrong."""
    clone.type("git checkout --quiet $(git rev-parse HEAD)")
    running(clone)
    loose = next((clone.path / ".dvc/cache/files/md5").glob("*/*"))
    loose.chmod(0o644)
    (clone.path / "README.md").write_text("edited")
    clone.type("git stash --quiet")


def running(clone: Clone) -> None:
    """A run is RUNNING whose process is gone."""
    gone = processes.written(processes.identity() | {"started": 1.0})
    with closing(sqlite3.connect(clone.path / DATABASE)) as database:
        database.execute("UPDATE runs SET status = 'RUNNING', end_time = NULL WHERE name = 'train'")
        database.execute("UPDATE tags SET value = ? WHERE key = 'retrace.process'", (gone,))
        database.commit()


def test_a_head_that_was_taken_off_its_branch_and_one_that_went_elsewhere(clone: Clone) -> None:
    assert wrong(repository.head) == []
    clone.type("git switch --quiet --detach")
    assert wrong(repository.head) == []
    clone.type(
        "git switch --quiet main && git checkout --quiet $(git rev-parse HEAD)"
    )  # as DVC does
    mended(clone, repository.head, "HEAD was detached from main")
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


def test_edits_that_an_interrupted_exp_run_left_in_the_stash(clone: Clone) -> None:
    """As treeverse/dvc#10655 has it: killed where it has put them there."""
    with (clone.path / "params.yaml").open("a") as file:
        file.write("# an edit\n")
    clone.run("python", "-c", KILLED, code=-signal.SIGKILL)
    mended(clone, repository.head, "by an interrupted `dvc exp run`")
    assert "first commit or restore what else is changed" in only(repository.stash).what
    clone.type("git restore --staged --worktree .")
    mended(clone, repository.stash, "an interrupted `dvc exp run` did")
    assert (clone.path / "params.yaml").read_text().endswith("# an edit\n")


def test_a_dead_git_s_lock(clone: Clone) -> None:
    lock = clone.path / ".git/index.lock"
    lock.touch()
    assert wrong(repository.lock) == []  # it may be at work
    os.utime(lock, (0, 0))
    mended(clone, repository.lock, "left by a git that was killed")


def test_no_git_repository_and_no_commit(clone: Clone) -> None:
    shutil.rmtree(clone.path / ".git")
    found = only(repository.present)
    assert "no git repository here" in found.what
    assert wrong(repository.identity) == wrong(repository.stash) == wrong(repository.head) == []
    clone.type("git init --quiet")
    assert "no commit yet" in only(repository.present).what
    assert doctor(clone, 1)["problem"] > 0
    shutil.rmtree(clone.path / ".git")
    clone.env |= {
        f"GIT_{who}_{what}": "me" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")
    }
    mended(clone, repository.present, "no git repository here")


def test_nobody_s_commits(clone: Clone, monkeypatch: pytest.MonkeyPatch) -> None:
    clone.type("git config --unset user.name && git config --unset user.email")
    mended(clone, repository.identity, "git lacks user.name and user.email")


def test_what_dvc_worked_with_when_it_was_killed(clone: Clone) -> None:
    for name in ("EXEC_HEAD", "EXEC_BASELINE", "EXEC_MERGE"):
        clone.type(f"git update-ref refs/exps/exec/{name} HEAD")
    mended(clone, experiments.refs, "EXEC_BASELINE, EXEC_MERGE of an interrupted `dvc exp run`")
    clone.type("git update-ref refs/exps/exec/EXEC_HEAD HEAD")
    assert wrong(experiments.refs) == []  # as every run leaves it


@pytest.mark.parametrize("holder", ["gone", "another"])
def test_files_that_a_dead_dvc_holds(clone: Clone, holder: str) -> None:
    pid = 2**22 - 1 if holder == "gone" else os.getpid()
    entry = {"pid": pid, "cmd": "dvc repro"}
    experiments.RWLOCK.write_text(
        json.dumps({"write": {"/models": entry}, "read": {"/data": [entry]}})
    )
    if holder == "another":
        entry["pid"] = psutil.Process().parents()[-1].pid  # has the number by now, and is no DVC
        experiments.RWLOCK.write_text(json.dumps({"write": {"/models": entry}}))
    assert only(experiments.locks).level == ("warning" if holder == "gone" else "problem")
    mended(
        clone,
        experiments.locks,
        f"locks files for process {entry['pid']} (dvc repro), which is gone",
    )


@pytest.mark.parametrize("content", ["", "{", "[]", '{"write": {"a": 3}}'])
def test_a_list_of_locks_that_is_none(clone: Clone, content: str) -> None:
    experiments.RWLOCK.write_text(content)
    mended(clone, experiments.locks, "is damaged, and DVC refuses to run")
    clone.type("dvc status")


def test_experiments_whose_baseline_no_branch_has(clone: Clone) -> None:
    clone.commit("to be amended")
    rev = clone.type("git rev-parse HEAD").strip()
    for name in ("lost-zigs", "lost-zags"):
        clone.type(f"git update-ref refs/exps/{rev[:2]}/{rev[2:]}/{name} HEAD")
    assert wrong(experiments.baselines) == []
    clone.type("git reset --quiet --hard HEAD~1")
    mended(clone, experiments.baselines, "2 experiments have baselines that no branch has")


def test_folders_that_nobody_uses(clone: Clone) -> None:
    folder = clone.path / ".dvc/tmp/exps/tmpabc"
    folder.mkdir(parents=True)
    (folder / "file").write_bytes(bytes(2_000_000))
    assert wrong(experiments.folders) == []  # it is being set up
    os.utime(folder, (0, 0))
    mended(clone, experiments.folders, "1 folders of experiments in .dvc/tmp/exps, 2 MB")


def test_a_task_that_no_worker_has(clone: Clone) -> None:
    """As a worker leaves it that is killed: its message is taken, and there is no result."""
    clone.type("dvc exp run --queue -S lr=0.01 -n crashed")
    celery = clone.path / ".dvc/tmp/exps/celery/broker"
    (message,) = (celery / "in").iterdir()
    message.rename(celery / "processed" / message.name)
    mended(clone, experiments.queue, "crashed: Running in the queue, but no worker has it")


def test_objects_that_were_written_to(clone: Clone) -> None:
    whole, damaged, *_ = (file for file in places_of(clone) if not file.name.endswith(".dir"))
    whole.chmod(0o644)
    found = only(cache.objects)
    assert (found.level, "1 objects in DVC's cache are writable; none has changed yet") == (
        "warning",
        found.what.partition(": ")[0],
    )
    damaged.chmod(0o644)
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"!")
    found = only(cache.objects)
    assert found.level == "problem"
    assert found.repair == f"rm -f {damaged.relative_to(clone.path)}"
    clone.type(str(found.repair))
    mended(clone, cache.objects, "none has changed yet")
    assert "all are what dvc.lock says" in clone.type("dvc repro --quiet; retrace verify --cache")


def test_more_objects_than_can_be_hashed_in_time_are_mended_bit_by_bit(
    clone: Clone, monkeypatch: pytest.MonkeyPatch
) -> None:
    for file in places_of(clone):
        file.chmod(0o644)
    clock = iter(range(1000))
    monkeypatch.setattr(cache.time, "monotonic", lambda: next(clock))
    rounds = 0
    while found := wrong(cache.objects):
        clone.type(str(found[0].repair))
        rounds += 1
    assert rounds > 3


def places_of(clone: Clone) -> list[Path]:
    return sorted((clone.path / ".dvc/cache/files/md5").glob("*/*"))


def test_outputs_that_are_copies(clone: Clone) -> None:
    clone.type("dvc config --local cache.type copy")
    found = only(cache.links)
    clone.type(f"dvc config --local --unset cache.type && {found.repair}")
    assert wrong(cache.links) == []


def test_a_site_cache_that_others_can_write_to(
    clone: Clone, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = Path(clone.env["DVC_SITE_CACHE_DIR"])
    (site / "repo").chmod(0o777)
    mended(clone, cache.site, f"others can write to {site}/repo")
    monkeypatch.delenv("DVC_SITE_CACHE_DIR")
    assert not (clone.path / ".dvc/config.local").exists()
    mended(clone, cache.site, "in /var/tmp/dvc, which everybody can write to")


def test_a_dep_that_dvc_yaml_lacks_and_one_too_many(clone: Clone) -> None:
    graph = clone.path / "dvc.yaml"
    good = graph.read_text()
    text = good.replace("      - src/retrace/models/${model}.py\n", "", 1)
    text = text.replace("      - patience\n", "", 1).replace(
        "      - src/lab/evaluation/introspection.py\n",
        "      - src/lab/evaluation/introspection.py\n      - src/lab/training/loop.py\n",
    )
    graph.write_text(text)
    found = [each for each in doctor(clone, 1)["findings"] if each["check"] == "dvc.yaml"]
    assert [each["what"].partition(";")[0] for each in found] == [
        "train: deps lacks src/retrace/models/${model}.py",
        "train: params lacks patience",
        "evaluate: deps has src/lab/training/loop.py, which it does not import",
    ]
    for each in found:
        clone.type(each["repair"])
    assert [
        each["level"] for each in doctor(clone, 0)["findings"] if each["check"] == "dvc.yaml"
    ] == ["ok"]
    assert sorted(graph.read_text().split()) == sorted(good.split())


def test_parameters_that_no_stage_accepts(clone: Clone) -> None:
    file = clone.path / "params.yaml"
    file.write_text(file.read_text().replace("\nlr: ", "\nlr: abc # "))
    mended(clone, pipeline.parameters, "params.yaml: lr is 'abc'; should be a valid number")


def test_a_dvc_lock_and_a_dvc_yaml_that_are_none(clone: Clone) -> None:
    for name in ("dvc.lock", "dvc.yaml"):
        (clone.path / name).write_text("<<<<<<< HEAD\n")
        mended(clone, pipeline.lock, f"{name}: not as DVC has it")


def test_what_was_not_made_with_what_is_here(clone: Clone) -> None:
    file = clone.path / "params.yaml"
    file.write_text(file.read_text().replace("\nepochs: 1", "\nepochs: 2"))
    mended(clone, pipeline.status, "not up to date: train (params.yaml)")


def test_a_dvc_that_hashes_for_minutes_is_not_waited_for(
    clone: Clone, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "STATUS_S", 0.01)
    assert "hashes large files" in only(pipeline.status).what


def test_runs_whose_process_is_gone(clone: Clone) -> None:
    running(clone)
    mended(clone, store.stale, "1 runs are RUNNING whose process is gone: train")


def test_a_database_of_an_older_mlflow(clone: Clone) -> None:
    (clone.path / DATABASE).unlink()
    place = f"sqlite:///{clone.path / DATABASE}"
    _, head = store._revisions()
    engine = sqlalchemy.create_engine(place)
    InitialBase.metadata.create_all(engine)
    engine.dispose()
    command.upgrade(_get_alembic_config(place), older(head))
    mended(clone, store.schema, f"of an older MLflow; {mlflow.__version__} needs {head}")


def older(head: str) -> str:
    """The schema before the newest."""
    folder = Path(mlflow.__file__).parent / "store/db_migrations/versions"
    (file,) = [
        file
        for file in folder.glob("*.py")
        if f'revision = "{head}"' in file.read_text().splitlines()
    ]
    (said,) = [line for line in file.read_text().splitlines() if line.startswith("down_revision")]
    return said.split('"')[1]


def runs() -> list[tuple[object, ...]]:
    """The runs and their metrics."""
    asked = "SELECT name, status, key, m.value FROM runs LEFT JOIN latest_metrics AS m USING (run_uuid) ORDER BY 1, 2, 3"
    with closing(sqlite3.connect(DATABASE)) as database:
        return database.execute(asked).fetchall()


def test_a_database_of_a_newer_mlflow(clone: Clone) -> None:
    with closing(sqlite3.connect(DATABASE)) as database:
        database.execute("UPDATE alembic_version SET version_num = 'feedfacecafe'")
        database.commit()
    mended(clone, store.schema, f"feedfacecafe of a newer MLflow than {mlflow.__version__}")
    assert list((clone.path / ".retrace").glob("mlflow.db-*/mlflow.db"))


@pytest.mark.parametrize("damage", ["text", "page", "empty"])
def test_a_database_that_is_damaged_comes_back_from_the_journals(clone: Clone, damage: str) -> None:
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
    assert (
        wrong(store.schema) == wrong(store.stale) == wrong(store.artifacts) == []
        or damage == "page"
    )
    mended(clone, store.answers, "is empty" if damage == "empty" else "is damaged")
    if damage != "empty":
        assert runs() == before


def test_files_of_runs_that_are_where_the_repository_was_before(
    clone: Clone, tmp_path: Path
) -> None:
    shutil.move(clone.path, tmp_path / "moved")
    clone.path = tmp_path / "moved"
    os.chdir(clone.path)
    mended(clone, store.artifacts, "the repository moved")
    client = mlflow.MlflowClient(f"sqlite:///{clone.path / DATABASE}")
    (run,) = [run for run in client.search_runs(["1"]) if run.info.run_name == "evaluate"]
    assert Path(
        client.download_artifacts(run.info.run_id, str(paths.METRICS), str(tmp_path))
    ).is_file()


def test_files_of_runs_that_are_gone(clone: Clone) -> None:
    shutil.rmtree(clone.path / "mlruns")
    mended(clone, store.artifacts, "are gone; new ones will be written there")


def test_a_large_file_of_changes_beside_the_database(
    clone: Clone, monkeypatch: pytest.MonkeyPatch
) -> None:
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
    mended(clone, store.waiting, "2 MB of changes wait beside mlflow.db")


def test_a_server_that_is_away(clone: Clone, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:canary@127.0.0.1:9")
    found = only(store.answers)
    assert "http://***@127.0.0.1:9, in MLFLOW_TRACKING_URI, does not answer" in found.what
    assert found.repair == "unset MLFLOW_TRACKING_URI"
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert wrong(store.answers) == []


def test_a_server_that_never_answers_is_waited_for_so_long(
    clone: Clone, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # accepts, and says nothing
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{silent.getsockname()[1]}")
        monkeypatch.setattr(store.place, "ANSWER_S", 0.2)
        began = time.monotonic()
        assert "does not answer (ReadTimeout)" in only(store.answers).what
        assert time.monotonic() - began < 3


def test_a_journal_that_mlflow_does_not_have(clone: Clone) -> None:
    done = next((clone.path / ".retrace/journal/uploaded").glob("*.jsonl"))
    done.rename(done.parent.parent / done.name)
    mended(clone, leftovers.journals, "MLflow lacks events of 1 stages that are over")


def test_a_training_that_was_interrupted(clone: Clone) -> None:
    folder = clone.path / leftovers.CHECKPOINTS / "abc"
    folder.mkdir(parents=True)
    (folder / "1.safetensors").write_bytes(bytes(1_500_000))
    with processes.try_lock(folder):
        assert wrong(leftovers.checkpoints) == []  # it goes on
    mended(clone, leftovers.checkpoints, "1 trainings were interrupted, of 1.5 MB")
    assert leftovers.CHECKPOINTS == checkpoint.FOLDER


def test_a_python_that_pyproject_does_not_allow(
    clone: Clone, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(environment.platform, "python_version", lambda: "3.10.4")
    found = only(environment.python)
    assert (
        found.what == "Python 3.10.4; pyproject.toml allows <3.14,>=3.11"
        or ">=3.11,<3.14" in found.what
    )
    assert found.repair == "rm -rf .venv && make PYTHON=python3.12 env"


def test_packages_that_are_missing_or_others(clone: Clone) -> None:
    file = clone.path / "requirements.txt"
    text = file.read_text()
    file.write_text(
        text.replace("\nnumpy==", "\nnumpy==9.").replace("\npillow==", "\nnever-published==") + ""
    )
    found = only(environment.packages)
    assert "2 of " in found.what
    assert f"numpy is {text.split('numpy==')[1].split(' ')[0]}, not 9." in found.what
    assert "never-published is missing, not " in found.what


def test_packages_for_other_systems_are_not_missed(clone: Clone) -> None:
    with (clone.path / "requirements.txt").open("a") as file:
        file.write("for-windows==1.0 ; sys_platform == 'win32' \\\n    --hash=sha256:0\n")
    assert wrong(environment.packages) == []


def test_another_repository_s_code(clone: Clone) -> None:
    found = only(environment.code)  # this process has the code of ROOT
    assert f"runs the code in {ROOT / 'src/retrace'}, not this repository's" in found.what
    assert found.repair == "make env && . .venv/bin/activate"


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


def test_a_gpu_and_none(monkeypatch: pytest.MonkeyPatch) -> None:
    with_gpu(monkeypatch)
    (found,) = environment.gpu()
    assert (
        found.what
        == f"NVIDIA H100, 70 of 80 GB free; driver 580.1, torch for CUDA {torch.version.cuda}"
    )
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
def test_no_driver_and_a_broken_one(
    monkeypatch: pytest.MonkeyPatch, error: int, level: str
) -> None:
    def fails() -> None:
        raise pynvml.NVMLError(error)

    monkeypatch.setattr(pynvml, "nvmlInit", fails)
    (found,) = environment.gpu()
    assert found.level == level


def test_bfloat16_is_told_as_torch_has_it() -> None:
    (found,) = environment.processor()
    native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    assert ("bfloat16 is native" in found.what) == native


def test_too_little_memory_and_a_full_disk(clone: Clone, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "LEAST_MEMORY", 1e15)
    assert "GB of memory are free" in only(machine.memory).what
    monkeypatch.setattr(machine, "LEAST_DISK", 1e15)
    monkeypatch.setattr(machine, "LEAST_FILES", 2**62)
    found = wrong(machine.disks)
    assert {each.level for each in found} == {"problem"}
    junk = clone.path / ".dvc/cache/files/md5/ff/" / ("f" * 30)
    junk.parent.mkdir(exist_ok=True)
    junk.write_bytes(b"what nothing names")
    clone.type(f"yes | {found[0].repair}")
    assert not junk.exists()
    assert "all are what dvc.lock says" in clone.type("retrace verify --cache")


def test_a_check_that_fails_and_one_that_hangs_are_problems_and_the_others_go_on(
    clone: Clone, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken() -> Iterator[Finding]:
        raise ModuleNotFoundError("No module named 'psutil'")
        yield

    def hangs() -> Iterator[Finding]:
        time.sleep(60)
        yield from ()

    monkeypatch.setattr(checks, "ANSWER_S", 1.0)
    monkeypatch.setattr(
        leftovers, "CHECKS", {"journals": broken, "checkpoints": leftovers.checkpoints}
    )
    monkeypatch.setattr(cache, "CHECKS", {"cache": hangs})
    monkeypatch.setattr(pipeline, "CHECKS", {})
    found = {finding.check: finding for finding in checks.examine() if finding.level == "problem"}
    assert "a package is missing or broken" in found["journals"].what
    assert found["journals"].repair == "rm -f .venv/.complete && make env"
    assert found["cache"].what.startswith("no answer within 1 s")


@pytest.mark.parametrize(
    "package", ["psutil", "yaml", "pynvml", "rich", "packaging", "requests", "dvc", "mlflow"]
)
def test_without_a_package_the_rest_is_looked_at(
    clone: Clone, tmp_path: Path, package: str
) -> None:
    """Also without what shows the findings in colour."""
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / f"{package}.py").write_text("raise ImportError('broken on purpose')\n")
    clone.env |= {"PYTHONPATH": f"{broken}{os.pathsep}src"}
    said = clone.run("retrace", "doctor", "--all", code=0 if package == "requests" else 1)
    assert "ok git " in said
    assert "Traceback" not in said


def document(clone: Clone, *command: str, code: int = 0) -> Any:
    """What the command printed on stdout, and nothing else there, is JSON."""
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


def test_the_commands_that_need_runs_have_json_too(clone: Clone) -> None:
    assert document(clone, "sync") == {
        "uploaded": 0,
        "closed": 0,
        "added": 0,
        "running": [],
        "failed": [],
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
    found = document(clone, "verify", "--cache", code=1)
    assert {each["of"] for each in found["damaged"]} == {str(paths.WEIGHTS)}
    Path(paths.WEIGHTS).unlink(missing_ok=True)
    damaged.unlink()
    assert document(clone, "verify", "--cache")["absent"] == [str(paths.WEIGHTS)]
    clone.type(found["repair"])
    assert document(clone, "verify", "--cache").items() >= {"damaged": [], "absent": []}.items()


@pytest.mark.slow
def test_a_verdict_is_json_too_and_what_stages_say_is_not_in_it(clone: Clone) -> None:
    found = document(clone, "verify", run_id("train"))
    assert found["verified"]
    assert {row["what"] for row in found["rows"]} > {str(paths.WEIGHTS), "val_loss"}
    assert all(row["equal"] for row in found["rows"])


@pytest.mark.slow
def test_an_environment_that_is_not_as_pinned_is_made_anew(whole: Clone, tmp_path: Path) -> None:
    """With the real command, which takes all packages from uv's cache, or from the network."""
    clone = Clone(tmp_path / "clone", tmp_path, SMALL)
    home = {name: os.environ[name] for name in ("HOME", "XDG_CACHE_HOME") if name in os.environ}
    clone.env |= {"PATH": f"{clone.path / '.venv/bin'}{os.pathsep}{os.environ['PATH']}", **home}
    subprocess.run(["make", "env"], cwd=clone.path, env=clone.env, capture_output=True, check=True)
    clone.type(".venv/bin/uv pip uninstall --quiet shtab jinja2")
    found = {each["check"]: each for each in doctor(clone, 1)["findings"]}
    assert "jinja2 is missing" in found["packages"]["what"]
    assert found["code"]["level"] == "ok"
    clone.type(found["packages"]["repair"])
    again = {each["check"]: each for each in doctor(clone, 0)["findings"]}
    assert again["packages"]["level"] == "ok"
