"""`retrace ui`: a server for this machine alone, closed to pages of other sites."""

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import requests
from faults.servers import until, unused_port
from repository import environment

from retrace.cli import ui
from retrace.errors import RetraceError

MOST_MB = 600
SHELL = {  # variables that would open the server, or move its pages
    "MLFLOW_SERVER_DISABLE_SECURITY_MIDDLEWARE": "true",
    "MLFLOW_SERVER_ALLOWED_HOSTS": "*",
    "MLFLOW_SERVER_CORS_ALLOWED_ORIGINS": "*",
    "MLFLOW_STATIC_PREFIX": "/mlflow",
    "_MLFLOW_STATIC_PREFIX": "/mlflow",
    "MLFLOW_ARTIFACTS_ONLY": "true",
    "MLFLOW_BACKEND_STORE_URI": "sqlite:///other.db",
    "MLFLOW_UVICORN_OPTS": "--workers 3",
    "UVICORN_ROOT_PATH": "/mlflow",
    "MLFLOW_EXPOSE_PROMETHEUS": "metrics",
    "WEB_CONCURRENCY": "3",
}
CREATE = "api/2.0/mlflow/experiments/create"

pytestmark = pytest.mark.xdist_group("ui")


@pytest.fixture(scope="module")
def server(
    tmp_path_factory: pytest.TempPathFactory, empty_store: Path
) -> Iterator[tuple[int, psutil.Process]]:
    """The port that `retrace ui` listens on, and its process."""
    folder = tmp_path_factory.mktemp("ui")
    port = unused_port()
    (folder / "dvc.yaml").touch()
    shutil.copy(empty_store, folder / "mlflow.db")
    with subprocess.Popen(
        ["retrace", "ui", "--port", str(port)],
        cwd=folder,
        env=environment(folder) | SHELL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as process:
        try:
            until(lambda: answers(port), what="an answer")
            yield port, psutil.Process(process.pid)
        finally:
            os.killpg(process.pid, signal.SIGTERM)


def answers(port: int) -> bool:
    try:
        return requests.get(f"http://127.0.0.1:{port}/health", timeout=5).ok
    except requests.ConnectionError:
        return False


def test_server_shows_the_store(server: tuple[int, psutil.Process]) -> None:
    url = f"http://localhost:{server[0]}/api/2.0/mlflow/experiments/get?experiment_id=0"
    assert requests.get(url, timeout=20).json()["experiment"]["name"] == "Default"


def test_pages_are_at_the_printed_address(server: tuple[int, psutil.Process]) -> None:
    response = requests.get(f"http://127.0.0.1:{server[0]}/", timeout=20)
    assert response.status_code == 200
    assert "X-Frame-Options" in response.headers


def test_taken_port_is_refused(server: tuple[int, psutil.Process]) -> None:
    with pytest.raises(RetraceError, match=rf"--port is {server[0]}: "):
        ui.serve("127.0.0.1", server[0])


@pytest.mark.parametrize(
    "host", ["evil.com", "10.evil.com", "192.168.evil.com", "localhost.evil.com", "localhost:1"]
)
def test_other_host_names_are_refused(server: tuple[int, psutil.Process], host: str) -> None:
    response = requests.get(f"http://127.0.0.1:{server[0]}/", headers={"Host": host}, timeout=20)
    assert response.status_code == 403


@pytest.mark.parametrize(("origin", "code"), [("http://evil.com", 403), ("null", 403), (None, 200)])
def test_other_origins_change_nothing(
    server: tuple[int, psutil.Process], origin: str | None, code: int
) -> None:
    headers = {"Origin": origin} if origin else {}
    response = requests.post(
        f"http://127.0.0.1:{server[0]}/{CREATE}",
        json={"name": f"of {origin}"},
        headers=headers,
        timeout=20,
    )
    assert response.status_code == code


def test_server_is_small(server: tuple[int, psutil.Process]) -> None:
    family = [server[1], *server[1].children(recursive=True)]
    assert sum(process.memory_info().rss for process in family) / 1e6 < MOST_MB
    assert len(family) <= 3


def test_server_listens_locally(server: tuple[int, psutil.Process]) -> None:
    family = [server[1], *server[1].children(recursive=True)]
    listening = {
        each.laddr.ip
        for process in family
        for each in process.net_connections()
        if each.status == "LISTEN"
    }
    assert listening == {"127.0.0.1"}


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "example.com", ""])  # noqa: S104
def test_public_host_is_refused(host: str) -> None:
    with pytest.raises(RetraceError, match=r"--host is .*127\.0\.0\.1, localhost, ::1"):
        ui.serve(host, 5000)


def test_served_store_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    with pytest.raises(RetraceError, match="MLFLOW_TRACKING_URI"):
        ui.serve("127.0.0.1", 5000)
