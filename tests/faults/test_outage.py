"""Without its tracking server, a stage neither waits nor fails, and nothing is lost."""

import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from faults.servers import Server, until, unused_port
from faults.stages import Stage, check_complete, child, find_runs, pending, set_params, sync

pytestmark = pytest.mark.xdist_group("servers")

WARNING = "warning: some data of this run is not in MLflow yet ("

# What an outage may cost: a factor and seconds.
SLOWER = 1.1
MORE_S = 5.0

Strike = Callable[[], None]


def run(folder: Path, url: str) -> tuple[float, str, Path]:
    """Run a stage without a pause; return its seconds, its stderr and its event log."""
    with Stage(folder, MLFLOW_TRACKING_URI=url) as stage:
        for epoch in range(1, 6):
            stage.tell(f"epoch {epoch}")
        stage.end()
        return time.monotonic() - stage.began, stage.stderr, stage.log


def run_struck(folder: Path, url: str, strike: Strike) -> tuple[float, str, Path]:
    """Run a stage whose server is struck after the first epoch, and on until the next upload."""
    with Stage(folder, MLFLOW_TRACKING_URI=url) as stage:
        stage.tell("epoch 1")
        until(lambda: shown(url, stage.log, "val_loss"), what="the first epoch in MLflow")
        strike()
        stage.tell("epoch 2")
        stage.await_reading()
        stage.tell("epoch 3")
        stage.end()
        return time.monotonic() - stage.began, stage.stderr, stage.log


def shown(url: str, path: Path, metric: str) -> bool:
    runs = find_runs(url, journal=path.stem)
    return bool(runs) and metric in runs[0].data.metrics


def check_one_warning(output: str) -> None:
    (line,) = output.splitlines()
    assert line.startswith(WARNING)
    assert line.endswith("); `retrace sync` uploads it later")


@pytest.fixture(scope="session")
def undisturbed() -> dict[str, float]:
    """Return the seconds of `run_struck` without a strike, by the kind of the server's database."""
    return {}


@pytest.fixture
def limit(undisturbed: dict[str, float], folder: Path, server: Server) -> float:
    """Return the seconds that a stage may take whose server is struck."""
    kind = server.store.partition(":")[0]
    if kind not in undisturbed:
        undisturbed[kind], output, log = run_struck(folder, server.url, lambda: None)
        assert output == ""
        check_complete(server.url, folder, log)
        set_params(folder, seed="999")
    return SLOWER * undisturbed[kind] + MORE_S


def test_no_server_warns_and_sync_repairs(folder: Path, local: str) -> None:
    usual, output, _ = run(folder, "")
    assert output == ""
    set_params(folder, seed="1")
    seconds, output, log = run(folder, f"http://127.0.0.1:{unused_port()}")
    check_one_warning(output)
    assert seconds <= SLOWER * usual + MORE_S
    assert pending(folder) == [log.name]
    sync(folder)
    check_complete(local, folder, log)


@pytest.mark.faults
def test_server_dead_at_start_warns(folder: Path, server: Server) -> None:
    usual, output, _ = run(folder, server.url)
    assert output == ""
    set_params(folder, seed="1")
    server.kill()
    seconds, output, log = run(folder, server.url)
    check_one_warning(output)
    assert seconds <= SLOWER * usual + MORE_S
    server.start()
    sync(folder, MLFLOW_TRACKING_URI=server.url)
    check_complete(server.url, folder, log)


def test_server_restart_loses_nothing(folder: Path, server: Server) -> None:
    with Stage(folder, MLFLOW_TRACKING_URI=server.url) as stage:
        stage.tell("epoch 1")
        until(lambda: shown(server.url, stage.log, "val_loss"), what="the first epoch in MLflow")
        server.kill()
        stage.tell("epoch 2")
        server.start()
        stage.tell("epoch 3")
        stage.end()
        assert stage.stderr == ""
    check_complete(server.url, folder, stage.log)


@pytest.mark.faults
def test_server_restart_after_failed_upload(folder: Path, server: Server, limit: float) -> None:
    with Stage(folder, MLFLOW_TRACKING_URI=server.url) as stage:
        stage.tell("epoch 1")
        until(lambda: shown(server.url, stage.log, "val_loss"), what="the first epoch in MLflow")
        server.kill()
        stage.tell("epoch 2")
        stage.await_reading()
        back = time.monotonic()
        server.start()
        back = time.monotonic() - back  # which the stage waited for, and not for itself
        stage.tell("epoch 3")
        stage.end()
        assert stage.stderr == ""
        assert time.monotonic() - stage.began - back <= limit
    check_complete(server.url, folder, stage.log)


@pytest.mark.faults
@pytest.mark.parametrize(
    ("strike", "mend"), [(Server.kill, Server.start), (Server.freeze, Server.thaw)]
)
def test_server_killed_or_frozen_warns(
    folder: Path,
    server: Server,
    limit: float,
    strike: Callable[[Server], None],
    mend: Callable[[Server], None],
) -> None:
    seconds, output, log = run_struck(folder, server.url, lambda: strike(server))
    check_one_warning(output)
    assert seconds <= limit
    mend(server)
    sync(folder, MLFLOW_TRACKING_URI=server.url)
    check_complete(server.url, folder, log)


@pytest.mark.faults
def test_sync_closes_run_of_killed_server(folder: Path, server: Server) -> None:
    with Stage(folder, MLFLOW_TRACKING_URI=server.url) as stage:
        stage.tell("epoch 1")
        until(lambda: shown(server.url, stage.log, "val_loss"), what="the first epoch in MLflow")
        stage.tell("epoch 2")
        server.kill()
        assert stage.kill() == -signal.SIGKILL
        until(stage.has_no_uploader, what="the end of the uploader")
    server.start()
    assert child(server.url, stage.log).info.status == "RUNNING"
    sync(folder, MLFLOW_TRACKING_URI=server.url)
    run = check_complete(server.url, folder, stage.log, "KILLED")
    assert run.data.tags["retrace.error"].startswith("the process ended without a status")
    assert run.data.metrics["val_loss"] == 1.0
