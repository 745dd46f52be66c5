"""MLflow's pages, as `retrace ui` shows them: to this machine, and to no page of another site."""

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
CREATE = "api/2.0/mlflow/experiments/create"


@pytest.fixture(scope="module")
def server(
    tmp_path_factory: pytest.TempPathFactory, empty_store: Path
) -> Iterator[tuple[int, psutil.Process]]:
    """The port that `retrace ui` listens on, and its process."""
    place, port = tmp_path_factory.mktemp("ui"), unused_port()
    (place / "dvc.yaml").touch()
    shutil.copy(empty_store, place / "mlflow.db")
    with subprocess.Popen(
        ["retrace", "ui", "--port", str(port)],
        cwd=place,
        env=environment(place),
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


def test_it_shows_the_store(server: tuple[int, psutil.Process]) -> None:
    found = requests.get(
        f"http://localhost:{server[0]}/api/2.0/mlflow/experiments/get?experiment_id=0", timeout=20
    )
    assert found.json()["experiment"]["name"] == "Default"


def test_a_port_that_is_taken_is_refused(server: tuple[int, psutil.Process]) -> None:
    said = rf"--port is {server[0]}: Address already in use; name another"
    with pytest.raises(RetraceError, match=said):
        ui.serve("127.0.0.1", server[0])


@pytest.mark.parametrize(
    "host", ["evil.com", "10.evil.com", "192.168.evil.com", "localhost.evil.com", "localhost:1"]
)
def test_no_other_name_is_answered(server: tuple[int, psutil.Process], host: str) -> None:
    asked = requests.get(f"http://127.0.0.1:{server[0]}/", headers={"Host": host}, timeout=20)
    assert asked.status_code == 403


@pytest.mark.parametrize(("origin", "code"), [("http://evil.com", 403), ("null", 403), (None, 200)])
def test_another_site_s_page_changes_nothing(
    server: tuple[int, psutil.Process], origin: str | None, code: int
) -> None:
    headers = {"Origin": origin} if origin else {}
    made = requests.post(
        f"http://127.0.0.1:{server[0]}/{CREATE}",
        json={"name": f"of {origin}"},
        headers=headers,
        timeout=20,
    )
    assert made.status_code == code


def test_it_is_small(server: tuple[int, psutil.Process]) -> None:
    family = [server[1], *server[1].children(recursive=True)]
    assert sum(process.memory_info().rss for process in family) / 1e6 < MOST_MB
    assert len(family) <= 3


def test_it_listens_to_this_machine_alone(server: tuple[int, psutil.Process]) -> None:
    family = [server[1], *server[1].children(recursive=True)]
    listening = {
        each.laddr.ip
        for process in family
        for each in process.net_connections()
        if each.status == "LISTEN"
    }
    assert listening == {"127.0.0.1"}


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "example.com", ""])  # noqa: S104 - it is refused
def test_a_host_that_others_reach_is_refused(host: str) -> None:
    with pytest.raises(
        RetraceError,
        match=r"--host is .*; should be one of 127\.0\.0\.1, localhost, ::1: .* no password",
    ):
        ui.serve(host, 5000)


def test_a_store_that_is_a_server_s_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    with pytest.raises(RetraceError, match="has its own pages"):
        ui.serve("127.0.0.1", 5000)
