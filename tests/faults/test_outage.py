"""The tracking server is away, for a while or for good: training neither waits nor fails, and nothing is lost."""

import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from faults.servers import Server, until, unused_port
from faults.stages import Stage, another, check_complete, child, found, pending, sync

pytestmark = pytest.mark.xdist_group("servers")

WARNING = "warning: MLflow lacks some of this run: "
SLOWER, MORE_S = 1.1, 5.0  # what an outage may cost: a factor and seconds

Strike = Callable[[], None]


def run(folder: Path, url: str) -> tuple[float, str, Path]:
    """A stage that works without a pause: its seconds, what it wrote to stderr, its journal."""
    with Stage(folder, MLFLOW_TRACKING_URI=url) as stage:
        for epoch in range(1, 6):
            stage.tell(f"epoch {epoch}")
        stage.end()
        return time.monotonic() - stage.began, stage.said, stage.journal


def run_struck(folder: Path, url: str, strike: Strike) -> tuple[float, str, Path]:
    """The same, of a stage whose server is struck when it has told some, and which then works until the process beside
    it has looked again.
    """
    with Stage(folder, MLFLOW_TRACKING_URI=url) as stage:
        stage.tell("epoch 1")
        until(lambda: shown(url, stage.journal, "val_loss"), what="the first epoch in MLflow")
        strike()
        stage.tell("epoch 2")
        stage.looked_at()
        stage.tell("epoch 3")
        stage.end()
        return time.monotonic() - stage.began, stage.said, stage.journal


def shown(url: str, path: Path, metric: str) -> bool:
    runs = found(url, journal=path.stem)
    return bool(runs) and metric in runs[0].data.metrics


def check_one_warning(said: str) -> None:
    (line,) = said.splitlines()
    assert line.startswith(WARNING)
    assert line.endswith("later, `retrace sync` uploads it")


@pytest.fixture(scope="session")
def undisturbed() -> dict[str, float]:
    """By the kind of the server's database, the seconds that `run_struck` takes if nothing strikes."""
    return {}


@pytest.fixture
def limit(undisturbed: dict[str, float], folder: Path, server: Server) -> float:
    """The seconds that a stage may take whose server is struck: of one without, just measured, and what is allowed."""
    kind = server.store.partition(":")[0]
    if kind not in undisturbed:
        undisturbed[kind], said, journal = run_struck(folder, server.url, lambda: None)
        assert said == ""
        check_complete(server.url, folder, journal)
        another(folder, seed="999")
    return SLOWER * undisturbed[kind] + MORE_S


def test_nobody_at_the_address_costs_one_line_and_sync_mends_it(folder: Path, local: str) -> None:
    usual, said, _ = run(folder, "")
    assert said == ""
    another(folder, seed="1")
    seconds, said, journal = run(folder, f"http://127.0.0.1:{unused_port()}")
    check_one_warning(said)
    assert seconds <= SLOWER * usual + MORE_S
    assert pending(folder) == [journal.name]
    sync(folder)
    check_complete(local, folder, journal)


@pytest.mark.faults
def test_a_server_that_is_dead_at_the_start(folder: Path, server: Server) -> None:
    usual, said, _ = run(folder, server.url)
    assert said == ""
    another(folder, seed="1")
    server.kill()
    seconds, said, journal = run(folder, server.url)
    check_one_warning(said)
    assert seconds <= SLOWER * usual + MORE_S
    server.start()
    sync(folder, MLFLOW_TRACKING_URI=server.url)
    check_complete(server.url, folder, journal)


def test_a_server_that_is_killed_and_comes_back_costs_nothing(folder: Path, server: Server) -> None:
    with Stage(folder, MLFLOW_TRACKING_URI=server.url) as stage:
        stage.tell("epoch 1")
        until(
            lambda: shown(server.url, stage.journal, "val_loss"), what="the first epoch in MLflow"
        )
        server.kill()
        stage.tell("epoch 2")
        server.start()
        stage.tell("epoch 3")
        stage.end()
        assert stage.said == ""
    check_complete(server.url, folder, stage.journal)


@pytest.mark.faults
def test_a_server_that_is_missed_and_comes_back_costs_nothing(
    folder: Path, server: Server, limit: float
) -> None:
    with Stage(folder, MLFLOW_TRACKING_URI=server.url) as stage:
        stage.tell("epoch 1")
        until(
            lambda: shown(server.url, stage.journal, "val_loss"), what="the first epoch in MLflow"
        )
        server.kill()
        stage.tell("epoch 2")
        stage.looked_at()
        back = time.monotonic()
        server.start()
        back = time.monotonic() - back  # which the stage waited for, and not for itself
        stage.tell("epoch 3")
        stage.end()
        assert stage.said == ""
        assert time.monotonic() - stage.began - back <= limit
    check_complete(server.url, folder, stage.journal)


@pytest.mark.faults
@pytest.mark.parametrize(
    ("strike", "mend"), [(Server.kill, Server.start), (Server.freeze, Server.thaw)]
)
def test_a_server_that_is_killed_for_good_or_freezes_costs_one_line(
    folder: Path,
    server: Server,
    limit: float,
    strike: Callable[[Server], None],
    mend: Callable[[Server], None],
) -> None:
    seconds, said, journal = run_struck(folder, server.url, lambda: strike(server))
    check_one_warning(said)
    assert seconds <= limit
    mend(server)
    sync(folder, MLFLOW_TRACKING_URI=server.url)
    check_complete(server.url, folder, journal)


@pytest.mark.faults
def test_a_server_that_is_killed_together_with_the_stage_learns_of_it_from_sync(
    folder: Path, server: Server
) -> None:
    with Stage(folder, MLFLOW_TRACKING_URI=server.url) as stage:
        stage.tell("epoch 1")
        until(
            lambda: shown(server.url, stage.journal, "val_loss"), what="the first epoch in MLflow"
        )
        stage.tell("epoch 2")
        server.kill()
        assert stage.kill() == -signal.SIGKILL
        until(stage.unfollowed, what="the end of the process beside it")
    server.start()
    assert child(server.url, stage.journal).info.status == "RUNNING"
    sync(folder, MLFLOW_TRACKING_URI=server.url)
    run = check_complete(server.url, folder, stage.journal, "KILLED")
    assert run.data.tags["retrace.error"].startswith("its process ended without a word")
    assert run.data.metrics["val_loss"] == 1.0
