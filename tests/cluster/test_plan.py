"""What `retrace cluster run` refuses before anything runs, and what DVC makes of its words."""

import csv
import dataclasses
import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from cluster.conftest import Repository

from retrace.cluster import nodes, plan
from retrace.cluster.task import Task
from retrace.errors import RetraceError
from retrace.pipeline import dvc_overrides


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Repository:
    return Repository(tmp_path_factory.mktemp("made"), empty_store)


@pytest.fixture
def here(made: Repository, monkeypatch: pytest.MonkeyPatch) -> Repository:
    """Enter the repository, and put back what a test changes."""
    monkeypatch.chdir(made.path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow:5000")
    monkeypatch.delenv("RETRACE_CHECKPOINTS", raising=False)
    made.type("git checkout --quiet --force main && git reset --quiet --hard origin/main")
    made.type(f"git remote set-url origin {made.origin}; rm --force .dvc/config.local")
    return made


def made_task(**changed: object) -> Task:
    (task,) = plan.make_tasks([])
    return dataclasses.replace(task, **changed)


def test_grid_is_dvcs(here: Repository) -> None:
    words = ["lr=0.1,0.2", "seed=range(0,2)", "params.yaml:wait_s=1"]
    here.run("dvc", "exp", "run", "--queue", *(word for each in words for word in ("-S", each)))
    shown = csv.DictReader(here.type("dvc exp show --csv --no-pager 2> /dev/null").splitlines())
    keys = ("lr", "seed", "wait_s")
    queued = {tuple(row[key] for key in keys) for row in shown if "Queued" in row.values()}
    assert len(queued) == 4
    expanded = dvc_overrides.expand(words)
    assert {tuple(word.split("=")[1] for word in each) for each in expanded} == queued
    here.type("dvc queue remove --all")


def test_values_keep_their_bytes() -> None:
    assert dvc_overrides.expand(["a.yaml:x='b c'", "lr=[1,2]"]) == [("a.yaml:x='b c'", "lr=[1,2]")]


def test_name_is_of_code_and_values(here: Repository) -> None:
    first, second = plan.make_tasks(["lr=1,2"])
    assert plan.make_tasks(["lr=1"])[0].name == first.name != second.name
    (here.path / "train.py").write_text("# other")
    assert plan.make_tasks(["lr=1"])[0].name != first.name
    assert [task.name for task in plan.make_tasks(["lr=1,2"], name="n")] == ["n-1", "n-2"]


def test_task_is_json(here: Repository) -> None:
    (here.path / "train.py").write_text("# ä")
    (task,) = plan.make_tasks(["lr=1"], ["train"])
    assert Task.from_json(json.loads(json.dumps(dataclasses.asdict(task)))) == task


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("git remote remove origin", ["git remote add"]),
        ("git commit --quiet --allow-empty --message new", ["git push origin HEAD"]),
        ("dvc remote default --unset; git commit --quiet --all --message x; git push --quiet",
         ["dvc remote add"]),
    ],
)  # fmt: skip
def test_what_is_missing_is_named(here: Repository, change: str, words: list[str]) -> None:
    here.type(f"git branch --quiet --set-upstream-to origin/main; {change}")
    with pytest.raises(RetraceError) as caught:
        plan.make_tasks([])
    assert "\n" not in str(caught.value)
    assert all(word in str(caught.value) for word in words)
    here.type(f"git remote add origin {here.origin} || true")
    here.type("git push --quiet --force origin $(git rev-list --max-parents=0 HEAD):main")
    here.type("git fetch --quiet origin")


@pytest.mark.parametrize(
    ("overrides", "name", "word"),
    [(["lr"], None, "lr"), (["no.such=1"], None, "no.such"), (["x.yaml:a=1"], None, "x.yaml"),
     ([], "a/b", "a/b"), ([], "a..b", "a..b")],
)  # fmt: skip
def test_bad_words_are_refused(
    here: Repository, overrides: list[str], name: str | None, word: str
) -> None:
    with pytest.raises(RetraceError) as caught:
        plan.make_tasks(overrides, name=name)
    assert word in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "store",
    [
        "http://localhost:5000",
        "http://127.0.0.1:5000",
        "http://ann:secret@[::1]:5",
        "sqlite:///m.db",
    ],
)
def test_address_of_this_machine_only(
    here: Repository, monkeypatch: pytest.MonkeyPatch, store: str
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    with pytest.raises(RetraceError) as caught:
        plan.check_reach(made_task())
    assert "MLflow" in str(caught.value)
    assert "secret" not in str(caught.value)


def test_shared_folders_are_named(here: Repository) -> None:
    notes = "\n".join(plan.check_reach(made_task()))
    assert str(here.origin) in notes
    assert str(here.remote) in notes
    assert ".retrace/checkpoints" in notes
    remote = {"url": "s3://bucket/x"}
    task = made_task(
        address="git@example.org:a/b.git",
        remotes={"core": {"remote": "r"}, "remote": {"r": remote}},
        variables={"MLFLOW_TRACKING_URI": "https://mlflow", "RETRACE_CHECKPOINTS": "s3://b/c"},
    )
    assert plan.check_reach(task) == []


def open_token(path: Path) -> dict[str, str]:
    path.write_text("0" * 64)
    path.chmod(0o644)
    return {}


@pytest.mark.parametrize(
    ("prepare", "word"),
    [
        (open_token, "chmod 600"),
        (lambda _: {"RAY_AUTH_MODE": "disabled"}, "unset RAY_AUTH_MODE"),
        (lambda _: {}, "copy it"),
    ],
)
def test_no_cluster_without_a_token(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    prepare: Callable[[Path], dict[str, str]],
    word: str,
) -> None:
    token = tmp_path / "token"
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(token))
    for name, value in prepare(token).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(RetraceError, match=word):
        nodes.authenticated()


def test_token_is_private(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    token = tmp_path / "new/token"
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(token))
    assert nodes.authenticated(creates=True)["RAY_AUTH_MODE"] == "token"
    assert token.stat().st_mode & 0o777 == 0o600
    before = token.read_text()
    nodes.authenticated(creates=True)
    assert token.read_text() == before


def test_without_a_cluster(here: Repository) -> None:
    for action in ("run", "status"):
        printed = here.run("retrace", "cluster", action, code=2)
        assert "retrace cluster start" in printed
        assert printed.count("\n") == 1
    assert "0 nodes" in here.run("retrace", "cluster", "stop")


def test_import_needs_no_ray() -> None:
    code = "import sys; from retrace.cluster import task, plan, nodes, ray_queue; "
    code += "from retrace.cli import cluster; print('ray' in sys.modules)"
    assert subprocess.check_output(["python", "-c", code], text=True) == "False\n"
