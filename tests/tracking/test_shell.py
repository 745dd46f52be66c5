"""DVC's shell below `retrace dvc`: commands run as without it, and each attempt is tracked.

tests/strangers/ has experiments, `--temp` and the queue.
"""

import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from faults.servers import until
from mlflow import MlflowClient
from stranger import PYTHON, Project

from retrace import event_log

REPRO = "dvc repro --keep-going ok several broken killed nested inside"
INSIDE = """
import retrace

with retrace.stage("inside") as run:
    run.metrics({"loss": 0.5}, step=1)
    print("logged")
"""
STAGES = {
    "ok": {
        "cmd": "env | grep -v ^_= | sort > env.txt; echo out; echo err >&2; echo x > ok.txt",
        "outs": ["ok.txt"],
    },
    "several": {
        "cmd": ["echo 1", "echo two >&2; echo x > several.txt", "echo 3"],
        "outs": ["several.txt"],
    },
    "broken": {"cmd": "echo 1\necho why 1>&2; exit 3\necho never"},
    "killed": {"cmd": "kill -9 $$"},
    "nested": {"cmd": "cd inner && dvc repro --quiet && cat shell.txt"},
    "inside": {"cmd": f"{PYTHON} inside.py"},
    "kills_dvc": {"cmd": ["kill -9 $(cut -d ' ' -f 4 /proc/$PPID/stat)", "touch never.txt"]},
    "slow": {"cmd": "sh -c 'trap \"\" TERM; echo $$ > pid.txt; sleep 60; true'; true"},
    "quick": {"cmd": "echo $SECRET_TOKEN"},
    "last": {"cmd": ["echo 1", "echo 2"]},
}
FILES = {
    "inside.py": INSIDE,
    "inner/dvc.yaml": "stages:\n  ok:\n    cmd: echo $SHELL > shell.txt\n",
    "inner/.dvc/config": "[core]\n    no_scm = True\n",
    ".gitignore": "/ok.txt\n/several.txt\n",
}
pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("shell")]
Ended = tuple[int, str]


@pytest.fixture(scope="module")
def projects(
    tmp_path_factory: pytest.TempPathFactory, empty_store: Path
) -> tuple[tuple[Project, Ended], tuple[Project, Ended]]:
    """Return two equal projects, the first run by DVC, the second below retrace."""

    def ended(command: str) -> tuple[Project, Ended]:
        folder = tmp_path_factory.mktemp("project")
        cache = tmp_path_factory.mktemp("cache")
        project = Project(folder, cache, empty_store, STAGES, FILES)
        repro = subprocess.run(
            command.split(), cwd=folder, env=project.env, capture_output=True, check=False
        )
        return project, (repro.returncode, (repro.stdout + repro.stderr).decode())

    return ended(REPRO), ended(f"retrace {REPRO}")


@pytest.fixture(scope="module")
def plain(projects: tuple[tuple[Project, Ended], ...]) -> Project:
    return projects[0][0]


@pytest.fixture(scope="module")
def tracked(projects: tuple[tuple[Project, Ended], ...]) -> Project:
    return projects[1][0]


def test_output_is_that_of_dvc(projects: tuple[tuple[Project, Ended], ...]) -> None:
    (_, plain), (_, tracked) = projects
    assert tracked == plain


@pytest.mark.parametrize("file", ["dvc.lock", "ok.txt", "several.txt"])
def test_files_are_those_of_dvc(plain: Project, tracked: Project, file: str) -> None:
    assert (tracked.path / file).read_bytes() == (plain.path / file).read_bytes()


def test_git_status_is_that_of_dvc(plain: Project, tracked: Project) -> None:
    shutil.rmtree(plain.path / ".retrace")  # of the stage that uses retrace
    shutil.rmtree(plain.path / "mlruns")
    (plain.path / "mlflow.db").unlink()
    expected = plain.type("git status --short")
    assert "?? dvc.lock\n" in expected
    assert tracked.type("git status --short") == expected


def variables(project: Project) -> dict[str, str]:
    """Return the environment of stage `ok`, with neutral folders."""
    text = (project.path / "env.txt").read_text()
    for folder, name in ((project.path, "HERE"), (project.cache, "CACHE")):
        text = text.replace(str(folder), name)
    return dict(line.split("=", 1) for line in text.splitlines() if "=" in line)


def test_environment_is_restored(plain: Project, tracked: Project) -> None:
    expected = variables(plain)
    seen = variables(tracked)
    assert Path(seen.pop("RETRACE_EVENT_LOG")).stem == tracked.log("ok")[0]["id"]
    assert seen.pop("RETRACE_STORE") == "sqlite:///HERE/mlflow.db"
    added = [name for name in seen if name.startswith("MLFLOW_")]
    assert {name: seen.pop(name) for name in added}["MLFLOW_EXPERIMENT_NAME"] == tracked.path.name
    assert seen == expected
    assert seen["SHELL"] == "/bin/bash"


@pytest.mark.parametrize(
    ("stage", "status", "error"),
    [
        ("ok", "FINISHED", None),
        ("several", "FINISHED", None),
        ("broken", "FAILED", "exit code 3: why"),
        ("killed", "KILLED", "killed by SIGKILL"),
        ("inside", "FINISHED", None),
    ],
)
def test_status_is_truthful(tracked: Project, stage: str, status: str, error: str | None) -> None:
    assert tracked.status(stage) == (status, error)


@pytest.mark.parametrize(
    ("stage", "kinds"),
    [
        ("several", ["start", "artifact", "command", "artifact", "command", "artifact", "end"]),
        ("broken", ["start", "artifact", "command", "artifact", "end"]),
    ],
)
def test_several_commands_are_one_attempt(tracked: Project, stage: str, kinds: list[str]) -> None:
    events = tracked.log(stage)
    own = [event for event in events if event["kind"] != "metrics"]
    assert [event["kind"] for event in own if event.get("path") != "code.patch"] == kinds


def test_nested_dvc_is_not_tracked(tracked: Project) -> None:
    assert tracked.status("nested") == ("FINISHED", None)
    assert len(tracked.logs("ok")) == 1
    assert (tracked.path / "inner/shell.txt").read_text() == "/bin/bash\n"


def test_stage_inside_shares_the_log(tracked: Project) -> None:
    values = [event["values"] for event in tracked.log("inside") if event["kind"] == "metrics"]
    assert {"loss": 0.5} in values


def test_mlflow_has_output_of_all_commands(tracked: Project) -> None:
    """The last stage waits for MLflow, which then has the earlier ones too."""
    tracked.type("retrace dvc repro last several")
    client = MlflowClient(f"sqlite:///{tracked.path}/mlflow.db")
    experiments = [each.experiment_id for each in client.search_experiments()]
    runs = client.search_runs(experiments, "tags.`retrace.stage` = 'last'")
    assert [run.info.status for run in runs] == ["FINISHED"]
    text = client.download_artifacts(runs[0].info.run_id, "logs/stdout.txt")
    assert Path(text).read_text() == "1\n2\n"
    broken = client.search_runs(experiments, "tags.`retrace.stage` = 'broken'")
    assert [run.data.tags["retrace.error"] for run in broken] == ["exit code 3: why"]


def test_killed_dvc_ends_attempt(tracked: Project) -> None:
    """It is killed between two commands."""
    tracked.run("retrace", "dvc", "repro", "kills_dvc", code=-signal.SIGKILL)
    until(lambda: event_log.end_of(tracked.log("kills_dvc")), what="the end of the event log")
    assert tracked.status("kills_dvc")[0] == "KILLED"
    assert not (tracked.path / "never.txt").exists()


@contextmanager
def started(project: Project, *words: str) -> Iterator["subprocess.Popen[bytes]"]:
    with subprocess.Popen(
        words,
        cwd=project.path,
        env=project.env,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        yield process


def test_processes_end_with_dvc(tracked: Project) -> None:
    pid = tracked.path / "pid.txt"
    with started(tracked, "retrace", "dvc", "repro", "slow") as dvc:
        until(lambda: pid.exists() and pid.read_text(), what="the command")
        everyone = [
            process.pid
            for process in psutil.Process(dvc.pid).children(recursive=True)
            if "retrace.tracking.uploader" not in process.cmdline()
        ]
        assert int(pid.read_text()) in everyone
        dvc.kill()
    # 3 to 4 s, of which 2 are for SIGTERM; the command itself would run for 60 s
    until(lambda: not any(map(psutil.pid_exists, everyone)), within_s=20, what="their end")
    assert tracked.status("slow")[0] == "KILLED"


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_killed_command_is_what_dvc_reports(tracked: Project, name: str) -> None:
    (tracked.path / "pid.txt").unlink(missing_ok=True)
    line = f"kill -{name[3:]} $$"
    (tracked.path / "dvc.yaml").write_text(
        f"stages:\n  {name.lower()}:\n    cmd: {line}\n  later:\n    cmd: echo\n"
    )
    printed = tracked.run("retrace", "dvc", "repro", name.lower(), code=255)
    tracked.type("git checkout --quiet dvc.yaml")
    assert f"exited with -{signal.Signals[name].value}" in printed
    assert tracked.status(name.lower()) == ("KILLED", f"killed by {name}")


SHELL = """#!/bin/sh
if [ "$1" = --version ]; then echo fish, version 3.6.0; exit; fi
echo "$@"
while [ "$1" != -c ]; do shift; done
exec /bin/sh "$@"
"""


@pytest.mark.parametrize("name", ["bash", "zsh", "fish"])
def test_shell_gets_options_of_dvc(tracked: Project, tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text(SHELL)
    (tmp_path / name).chmod(0o755)
    repro = ("dvc", "repro", "--quiet", "--force", "--single-item", "quick")
    shell = str(tmp_path / name)
    printed = tracked.run(*repro, SHELL=shell)
    assert printed.endswith("-c echo $SECRET_TOKEN\n\n")
    assert tracked.run("retrace", *repro, SHELL=shell) == printed


def test_missing_shell_is_127(tracked: Project) -> None:
    repro = ("retrace", "dvc", "repro", "--force", "--single-item", "quick")
    printed = tracked.run(*repro, code=255, SHELL="/no/such/shell")
    assert "/no/such/shell: No such file or directory\n" in printed
    assert "exited with 127" in printed


def test_secrets_are_masked(tracked: Project) -> None:
    repro = ("retrace", "dvc", "repro", "--quiet", "--force", "--single-item", "quick")
    before = len(tracked.logs("quick"))
    assert tracked.run(*repro, SECRET_TOKEN="wet-paint-77") == "wet-paint-77\n"  # noqa: S106
    assert len(tracked.logs("quick")) == before + 1
    for file in (tracked.path / ".retrace").rglob("*"):
        assert not file.is_file() or b"wet-paint-77" not in file.read_bytes()


def test_unwritable_folder_is_one_warning(tracked: Project) -> None:
    kept = tracked.path / ".retrace"
    repro = ("dvc", "repro", "--quiet", "--force", "--single-item", "last")
    kept.rename(tracked.path / ".dvc/tmp/kept")
    try:
        kept.write_text("")
        printed = tracked.run("retrace", *repro)
    finally:
        kept.unlink()
        (tracked.path / ".dvc/tmp/kept").rename(kept)
    lines = printed.splitlines()
    assert [line for line in lines if "warning: " not in line] == ["1", "2"]
    assert [line for line in lines if line.startswith("warning: last is not tracked: ")]


@pytest.mark.parametrize("text", ["stages: [", "stages:\n  a:\n    cmdd: x\n", ""])
def test_invalid_yaml_is_dvcs_message(tracked: Project, text: str) -> None:
    (tracked.path / "dvc.yaml").write_text(text)
    try:
        plain, below = (
            subprocess.run(
                [*words, "dvc", "repro"],
                cwd=tracked.path,
                env=tracked.env,
                capture_output=True,
                check=False,
            )
            for words in ([], ["retrace"])
        )
    finally:
        tracked.type("git checkout --quiet dvc.yaml")
    assert (below.returncode, below.stdout, below.stderr) == (
        plain.returncode,
        plain.stdout,
        plain.stderr,
    )


def test_wrapper_ignores_modules_of_project(tracked: Project) -> None:
    names = ("filelock", "retrace")
    for name in names:
        (tracked.path / f"{name}.py").write_text("raise SystemExit('shadowed')")
    repro = ("retrace", "dvc", "repro", "--quiet", "--force", "--single-item", "ok")
    try:
        before = len(tracked.logs("ok"))
        printed = tracked.run(*repro, PYTHONPATH=str(tracked.path), code=0)
    finally:
        for name in names:
            (tracked.path / f"{name}.py").unlink()
    assert printed == "out\nerr\n"
    assert len(tracked.logs("ok")) == before + 1
