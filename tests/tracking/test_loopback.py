"""The MLflow server on loopback: for stages only, and no longer than their DVC."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import requests
from faults.servers import until
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from retrace.event_log import EventLog
from retrace.pipeline.workspace import Workspace
from retrace.system import processes
from retrace.system.processes import Identity
from retrace.tracking import header, loopback
from retrace.tracking.loopback import Server

SHELL = {  # variables that would open the server, or move its pages
    "MLFLOW_SERVER_DISABLE_SECURITY_MIDDLEWARE": "true",
    "_MLFLOW_STATIC_PREFIX": "/mlflow",
    "_MLFLOW_SERVER_ARTIFACTS_ONLY": "true",
    "prometheus_multiproc_dir": "metrics",
}


@pytest.fixture
def dvc() -> Iterator[Identity]:
    """Return a process that lives as long as the test, in the place of DVC."""
    with subprocess.Popen(["sleep", "600"]) as process:
        yield processes.identity(process.pid)
        process.kill()


@pytest.fixture
def log(folder: Path, monkeypatch: pytest.MonkeyPatch) -> EventLog:
    """Return the event log of a running stage."""
    monkeypatch.setenv("DVC_ROOT", str(folder))
    workspace = Workspace(folder)
    return header.open_log(workspace, workspace.pipeline.stages["train"])


def started(dvc: Identity, log: EventLog) -> tuple[str, psutil.Process]:
    """Start a server; return its address for the stage, and its process."""
    address = loopback.address(dvc, log.id)
    server = until(lambda: Server.of(dvc), what="the server's file")
    return address, psutil.Process(server.process["pid"])


def test_server_ends_with_dvc(dvc: Identity, log: EventLog) -> None:
    address, process = started(dvc, log)
    assert loopback.address(dvc, log.id) == address
    assert process.memory_info().rss < 100 * 2**20
    assert process.pid not in {each.pid for each in psutil.Process().children(recursive=True)}
    psutil.Process(dvc["pid"]).kill()
    until(lambda: not process.is_running())
    assert not list(Path(".retrace/servers").iterdir())


def test_server_ends_without_its_folder(dvc: Identity, log: EventLog) -> None:
    _, process = started(dvc, log)
    Path(".retrace").rename("kept")
    Path(".retrace").write_text("")
    psutil.Process(dvc["pid"]).kill()
    until(lambda: not process.is_running())


def test_killed_server_is_replaced(dvc: Identity, log: EventLog) -> None:
    address, process = started(dvc, log)
    process.kill()
    until(lambda: Server.of(dvc) is None)
    again, process = started(dvc, log)
    assert again != address
    process.kill()


@pytest.mark.usefixtures("store")
def test_runs_of_any_client_are_tagged(
    dvc: Identity, log: EventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in SHELL.items():
        monkeypatch.setenv(name, value)
    address, process = started(dvc, log)
    client = MlflowClient(address)
    experiment = client.get_experiment_by_name("mnist")
    assert experiment, "created before the first answer"
    run = client.create_run(experiment.experiment_id, tags={"own": "tag"}, run_name="raw")
    nested = client.create_run(experiment.experiment_id, tags={"mlflow.parentRunId": "abc"})
    above = client.get_run(run.data.tags["mlflow.parentRunId"])
    assert above.data.tags["mlflow.retrace.journal"] == log.id
    assert run.data.tags["retrace.below.attempt"] == log.id
    assert (run.data.tags["own"], run.info.run_name) == ("tag", "raw")
    assert nested.data.tags["mlflow.parentRunId"] == "abc"
    elsewhere = client.create_run(client.create_experiment("theirs"))
    assert "mlflow.parentRunId" not in elsewhere.data.tags
    assert elsewhere.data.tags["retrace.below.run"] == above.info.run_id

    base = address.rpartition("/retrace/")[0]
    for path in ("", "/", "/api/2.0/mlflow/experiments/search", "/retrace/0123abcd/health"):
        answer = requests.get(f"{base}{path}", timeout=10)
        assert answer.status_code == 400
    search = f"{address}/api/2.0/mlflow/experiments/search?max_results=1"
    assert requests.get(search, timeout=10).status_code == 200
    answer = requests.get(search, headers={"Host": "10.evil.example"}, timeout=10)
    assert answer.status_code == 403
    create = f"{address}/api/2.0/mlflow/runs/create"
    assert requests.post(create, data=b"no JSON", timeout=10).status_code == 400
    process.kill()


def test_broken_store_is_told(dvc: Identity, log: EventLog, folder: Path) -> None:
    (folder / "mlflow.db").write_bytes(b"no database")
    address, process = started(dvc, log)
    with pytest.raises(MlflowException, match="MLflow's server does not start"):
        MlflowClient(address).create_experiment("theirs")
    process.kill()
