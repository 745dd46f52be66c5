"""A team's server, set up as docs/server/README.md says: what it stores, whom it refuses."""

import hashlib
import os
import re
import shlex
import shutil
import signal
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import psutil
import pytest
import requests
import sqlalchemy
from mlflow import MlflowClient
from repository import ROOT, Clone, environment

from faults.servers import TEMPORARY, Postgres, rows, until, unused_port
from faults.stages import (
    Stage,
    artifact,
    check_complete,
    find_runs,
    parents,
    pending,
    set_params,
    sync,
)
from lab import params
from retrace.system import processes

pytestmark = [pytest.mark.faults, pytest.mark.xdist_group("team server")]

PAGE = (ROOT / "docs/server/README.md").read_text()
COMMANDS = re.findall(r"^    \$ ((?:.*\\\n)*.*)$", PAGE, re.MULTILINE)
ADD, ALLOW = COMMANDS[-2:]
ON_THE_MEMBER_S_MACHINE = ("export ", "dvc ")
SMALL = {"dataset: mnist": "dataset: digits", "epochs: 5": "epochs: 2", "threads: 2": "threads: 1"}
BUCKET = """
import boto3
for stored in boto3.client("s3").list_objects_v2(Bucket="mlflow")["Contents"]:
    print(stored["ETag"].strip('"'), stored["Key"])
"""


class Shell:
    """A shell to type commands in. At the end of the context, all that they started is killed."""

    def __init__(self, folder: Path, env: dict[str, str]) -> None:
        self.screen = folder.with_name(f"{folder.name}.screen")
        with self.screen.open("wb") as screen:
            self.process = subprocess.Popen(
                ["bash"],
                cwd=folder,
                env=env,
                stdin=subprocess.PIPE,
                stdout=screen,
                stderr=screen,
                bufsize=0,
                start_new_session=True,
            )

    def type(self, command: str, code: int = 0) -> str:
        """Run a command, check its exit code and return what it printed."""
        assert self.process.stdin
        mark = uuid.uuid4().hex
        n_before = len(self.screen.read_text())
        self.process.stdin.write(f"{command}\necho {mark} $?\n".encode())
        ended = until(
            lambda: re.search(rf"^{mark} (\d+)\n", self.screen.read_text(), re.MULTILINE),
            600,
            command,
        )
        output = self.screen.read_text()[n_before : ended.start()]
        assert int(ended[1]) == code, f"{command}\n{output}"
        return output.strip()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with self.process:
            os.killpg(self.process.pid, signal.SIGKILL)


@dataclass
class Team:
    """A server: its user's shell and folder, its addresses, its members, and a member's clone."""

    shell: Shell
    folder: Path
    url: str
    s3: str
    runs: str
    users: str
    clone: Clone
    output: str = ""
    passwords: dict[str, str] = field(default_factory=dict)

    def sets(self, member: str) -> dict[str, str]:
        """Return the environment of a member."""
        who = {
            "MLFLOW_TRACKING_USERNAME": member,
            "MLFLOW_TRACKING_PASSWORD": self.passwords[member],
        }
        return {"MLFLOW_TRACKING_URI": self.url} | who

    def add(self, member: str) -> None:
        self.passwords[member] = self.shell.type(ADD.replace("ben", member))

    def asked(self, path: str, member: str = "", method: str = "GET", **sent: Any) -> int:
        """Send a request as a member or as nobody; return the status code."""
        who = (member, self.passwords[member]) if member else None
        return requests.request(
            method, f"{self.url}/api/{path}", auth=who, timeout=60, **sent
        ).status_code

    def bucket(self) -> dict[str, str]:
        """Return the MD5 of all objects in the bucket by their keys."""
        listed = self.shell.type(shlex.join(["python", "-c", BUCKET])).splitlines()
        assert len(listed) < 1000  # a page
        return {name: md5 for md5, name in (line.split(" ", 1) for line in listed)}


@pytest.fixture(scope="module")
def team(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Team]:
    """Set up a server as the page says, and use it as a member."""
    clone = Clone(tmp_path_factory.mktemp("clone"), tmp_path_factory.mktemp("cache"), SMALL)
    ports = {name: unused_port() for name in ("mlflow", "s3", "master", "volume", "filer")}
    internal = {f"{name}.port.grpc": unused_port() for name in ports if name != "mlflow"}
    internal |= {f"{name}.port": ports[name] for name in ("s3", "master", "volume", "filer")}
    url, s3 = (f"http://127.0.0.1:{ports[name]}" for name in ("mlflow", "s3"))
    with tempfile.TemporaryDirectory() as home, tempfile.TemporaryDirectory() as database:
        folder = Path(home) / "clone"
        env = environment(Path(home))
        here = {
            "~/mlflow": f"{home}/mlflow",
            "sudo -u postgres ": "PGUSER=postgres ",
            "http://127.0.0.1:8333": s3,
            "127.0.0.1:5000": url.removeprefix("http://"),
            "--port 5000": f"--port {ports['mlflow']}",
            "https://mlflow.example.org": url,
            "mnist": "digits",
        }
        shutil.copytree(ROOT / "docs/server", folder / "docs/server")
        for file in (folder / "docs/server").iterdir():
            file.write_text(substituted(file.read_text(), here))
        with (folder / "docs/server/weed.options").open("a") as options:
            options.writelines(f"{name}={port}\n" for name, port in internal.items())

        env |= {"PGHOST": database, "PGUSER": "team", "USER": "team"}
        with (
            Postgres(Path(database)).running() as postgres,
            Shell(folder, env) as server,
            Shell(clone.path, clone.env) as member,
        ):
            runs, users = (postgres.store(name) for name in ("mlflow", "mlflow_users"))
            team = Team(server, folder, url, s3, runs, users, clone)
            type_commands(team, member, here)
            yield team
        for port in internal.values():
            for socket in Path(TEMPORARY).glob(f"seaweedfs-*-{port}.sock"):
                socket.unlink()


def type_commands(team: Team, member: Shell, here: dict[str, str]) -> None:
    """Type the commands of the page, each once the servers that it needs answer."""
    for command in COMMANDS:
        if command.startswith("sudo apt-get"):
            continue
        if command.startswith(ON_THE_MEMBER_S_MACHINE):
            typed = substituted(command, here | {"=...": f"={team.passwords['ann']}"})
            team.output += member.type(typed)
            continue
        output = team.shell.type(substituted(command, here))
        if command.startswith("weed "):
            until(lambda: status(team.s3) == 403, what="the store")
        if command.startswith("mlflow "):
            until(lambda: status(f"{team.url}/health") == 200, what="MLflow")
        if "members.py add" in command:
            team.passwords[command.split()[-1]] = output


def substituted(text: str, by: dict[str, str]) -> str:
    for old, new in by.items():
        text = text.replace(old, new)
    return text


def status(url: str) -> int:
    with suppress(requests.RequestException):
        return requests.get(url, timeout=5).status_code
    return 0


@pytest.fixture
def ann(team: Team, monkeypatch: pytest.MonkeyPatch) -> None:
    """Give this process ann's environment."""
    for name, value in team.sets("ann").items():
        monkeypatch.setenv(name, value)


def test_server_answers_members_only(team: Team) -> None:
    search = "2.0/mlflow/experiments/search?max_results=1"
    assert team.asked(search, "ann") == 200
    assert team.asked(search) == 401
    for name, password in (
        ("ann", "wrong"),
        ("ann", ""),
        ("admin", "password1234"),
        ("nobody", "wrong"),
    ):
        answer = requests.get(f"{team.url}/api/{search}", auth=(name, password), timeout=60)
        assert answer.status_code == 401, name


def test_server_refuses_other_hosts_and_origins(team: Team) -> None:
    search = "2.0/mlflow/experiments/search?max_results=1"
    assert team.asked(search, "ann", headers={"Host": "mlflow.example.org"}) == 200
    for host in ("evil.com", "mlflow.example.org.evil.com", "10.evil.com"):
        assert team.asked(search, "ann", headers={"Host": host}) == 403
    create = "2.0/mlflow/experiments/create"
    body = {"name": "evil"}
    assert (
        team.asked(create, "ann", "POST", json=body, headers={"Origin": "https://evil.com"}) == 403
    )


def test_server_listens_on_loopback_only(team: Team) -> None:
    started = psutil.Process(team.shell.process.pid).children(recursive=True)
    opened = [
        socket
        for process in started
        for socket in process.net_connections("inet")
        if socket.status == "LISTEN"
    ]
    assert {socket.laddr.ip for socket in opened} == {"127.0.0.1"}
    assert "mlflow.server.jobs" not in " ".join(
        word for process in started for word in process.cmdline()
    )


def test_secrets_are_private_and_in_no_log(team: Team) -> None:
    kept = team.folder.parent / "mlflow"
    assert kept.stat().st_mode & 0o777 == 0o700
    assert {(kept / name).stat().st_mode & 0o777 for name in ("settings", "s3.json")} == {0o600}
    settings = dict(line.split("=") for line in (kept / "settings").read_text().splitlines())
    secrets = [value for name, value in settings.items() if name.endswith(("_KEY", "_PASSWORD"))]
    assert len(set(secrets)) == 3
    logs = [kept / "server.log", kept / "s3.log", *team.clone.path.glob(".retrace/**/*.*")]
    text = "\n".join(file.read_text() for file in logs if file.suffix in (".log", ".jsonl"))
    assert [secret for secret in [*secrets, *team.passwords.values()] if secret in text] == []


@pytest.mark.usefixtures("ann")
def test_pipeline_is_complete_in_mlflow(team: Team) -> None:
    assert "warning" not in team.output
    assert pending(team.clone.path) == []
    (parent,) = parents(team.url, team.clone.path)
    assert parent.info.status == "FINISHED"
    assert {"val_accuracy", "test_accuracy"} <= set(parent.data.metrics)
    children = [
        run
        for run in find_runs(team.url)
        if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id
    ]
    assert {run.data.tags["retrace.stage"] for run in children} == set(params.STAGES)
    for path in team.clone.path.glob("reports/figures/*.png"):
        name = str(path.relative_to(team.clone.path))
        assert artifact(team.url, parent, name) == path.read_bytes()
    assert parent.outputs is not None
    (model,) = parent.outputs.model_outputs
    assert MlflowClient(team.url).get_logged_model(model.model_id).status == "READY"
    assert parent.info.run_id in {row[0] for row in rows(team.runs)["runs"]}


@pytest.mark.usefixtures("ann")
def test_artifacts_are_in_the_bucket_only(team: Team) -> None:
    (parent,) = parents(team.url, team.clone.path)
    stored = team.bucket()
    drawn = list(team.clone.path.glob("reports/figures/*.png"))
    assert len(drawn) > 5
    for path in drawn:
        folder = f"{parent.info.experiment_id}/{parent.info.run_id}/artifacts"
        name = f"{folder}/{path.relative_to(team.clone.path)}"
        assert stored[name] == hashlib.md5(path.read_bytes()).hexdigest()
    assert parent.outputs is not None
    (model,) = parent.outputs.model_outputs
    assert f"{parent.info.experiment_id}/models/{model.model_id}/artifacts/MLmodel" in stored
    assert {path.name for path in team.folder.iterdir()} == {"docs"}
    assert [path for path in team.folder.parent.rglob(drawn[0].name) if path.is_file()] == []
    assert not (team.clone.path / "mlruns").exists()
    assert not (team.clone.path / "mlflow.db").exists()


def test_bucket_refuses_requests_without_key(team: Team) -> None:
    name = next(iter(team.bucket()))
    for address in (team.s3, f"{team.s3}/mlflow", f"{team.s3}/mlflow/{name}"):
        assert requests.get(address, timeout=60).status_code == 403
    assert requests.put(f"{team.s3}/mlflow/{name}", b"evil", timeout=60).status_code == 403
    output = team.shell.type(
        f"AWS_SECRET_ACCESS_KEY=wrong {shlex.join(['python', '-c', BUCKET])}", code=1
    )
    assert "SignatureDoesNotMatch" in output


@pytest.mark.usefixtures("ann")
def test_experiment_is_closed_until_allowed(team: Team) -> None:
    (parent,) = parents(team.url, team.clone.path)
    run = parent.info.run_id
    experiment = parent.info.experiment_id
    figure = f"{experiment}/{run}/artifacts/reports/figures/tsne.png"
    asked = [
        "2.0/mlflow/experiments/get-by-name?experiment_name=digits",
        f"2.0/mlflow/runs/get?run_id={run}",
        f"2.0/mlflow-artifacts/artifacts/{figure}",
    ]
    tag = {"run_id": run, "key": "evil", "value": "yes"}
    team.add("cid")
    assert {team.asked(path, "cid") for path in asked} == {403}
    team.shell.type(ALLOW.replace("ben EDIT mnist", "cid READ digits"))
    assert {team.asked(path, "cid") for path in asked} == {200}
    assert team.asked("2.0/mlflow/runs/set-tag", "cid", "POST", json=tag) == 403
    assert (
        team.asked(
            "2.0/mlflow/users/create", "cid", "POST", json={"username": "x", "password": "y" * 12}
        )
        == 403
    )
    team.add("dan")
    team.shell.type(ALLOW.replace("ben EDIT mnist", "dan READ '*'"))
    assert {team.asked(path, "dan") for path in asked} == {200}


@pytest.mark.usefixtures("ann")
def test_edit_permission_suffices_for_stages(team: Team, tmp_path: Path) -> None:
    ben = shutil.copytree(team.clone.path, tmp_path / "ben", symlinks=True)
    with Shell(ben, team.clone.env | team.sets("ben")) as shell:
        assert "warning" not in shell.type("dvc exp run -S lr=0.01")
    (run,) = [run for run in parents(team.url, ben) if run.data.params["lr"] == "0.01"]
    assert run.info.status == "FINISHED"
    links = ("retrace.cached.download", "retrace.cached.preprocess", "mlflow.retrace.run.visualize")
    assert set(links) <= set(run.data.tags)
    assert (
        artifact(team.url, run, "reports/figures/tsne.png")
        == (ben / "reports/figures/tsne.png").read_bytes()
    )
    sync(ben, **team.sets("ben"))
    before = rows(team.runs)
    sync(ben, **team.sets("ben"))
    assert rows(team.runs) == before


def test_wrong_password_warns_and_sync_repairs(team: Team, folder: Path, ann: None) -> None:
    set_params(folder, dataset="digits")
    with Stage(
        folder, **team.sets("ann") | {"MLFLOW_TRACKING_PASSWORD": "wrong password"}
    ) as stage:
        stage.tell("epoch 1")
        stage.end()
        (line,) = stage.stderr.splitlines()
    assert "401" in line
    assert "wrong password" not in line
    assert pending(folder) == [stage.log.name]
    sync(folder, **team.sets("ann"))
    check_complete(team.url, folder, stage.log)


@pytest.mark.usefixtures("ann")
def test_abandoned_run_is_closed_by_its_owner(team: Team) -> None:
    client = MlflowClient(team.url)
    (parent,) = parents(team.url, team.clone.path)
    gone = processes.to_line(processes.identity() | {"pid": 2**22 - 1})
    tags = {
        "mlflow.retrace.process": gone,
        "retrace.stage": "train",
        "mlflow.parentRunId": parent.info.run_id,
    }
    run = client.create_run(parent.info.experiment_id, tags=tags).info.run_id
    team.add("eve")
    team.shell.type(ALLOW.replace("ben EDIT mnist", "eve READ digits"))
    assert "closed: 0 runs" in sync(team.clone.path, **team.sets("eve"))
    assert client.get_run(run).info.status == "RUNNING"
    assert "closed: 1 run " in sync(team.clone.path, **team.sets("ann"))
    assert client.get_run(run).info.status == "KILLED"
    client.delete_run(run)


def test_passwords_are_hashed(team: Team) -> None:
    engine = sqlalchemy.create_engine(team.users)
    with engine.connect() as connected:
        users = dict(
            map(
                tuple,
                connected.execute(sqlalchemy.text("SELECT username, password_hash FROM users")),
            )
        )
    engine.dispose()
    assert {"admin", "ann", "ben"} <= set(users)
    assert [
        member for member, password in team.passwords.items() if password in users[member]
    ] == []
