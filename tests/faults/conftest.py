"""Fixtures of the fault tests: one real server for each kind of database, an empty store."""

import itertools
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from repository import environment

from faults.servers import Postgres, Server
from faults.stages import set_params

SEEDS = itertools.count(1000)
DATABASES = ("sqlite", pytest.param("postgresql", marks=pytest.mark.faults))
LONGEST = (
    "test_dvc.py",
    "test_outage.py",
    "test_team_server.py",
    "test_sweep_of_twelve",
    "test_resumed.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Start the longest tests first, so that no worker ends with one of them."""

    def rank(item: pytest.Item) -> int:
        return next(
            (number for number, name in enumerate(LONGEST) if name in item.nodeid), len(LONGEST)
        )

    items.sort(key=rank)


@pytest.fixture(scope="session")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Server]]:
    """Yield the servers by the kind of their database; `server` starts them."""
    running: dict[str, Server] = {}
    yield running
    for server in running.values():
        server.kill()


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    with tempfile.TemporaryDirectory() as folder, Postgres(Path(folder)).running() as running:
        yield running


@pytest.fixture(params=DATABASES)
def server(
    request: pytest.FixtureRequest,
    folder: Path,
    servers: dict[str, Server],
    empty_store: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Server]:
    """Yield a server that answers, with an experiment in `folder` that it does not know.

    Whatever a test does to it, the next one gets it running again.
    """
    kind = request.param
    if kind not in servers:
        at = tmp_path_factory.mktemp(kind)
        if kind == "sqlite":
            store = f"sqlite:///{shutil.copy(empty_store, at / 'mlflow.db')}"
        else:
            store = request.getfixturevalue("postgres").make("mlflow")
        servers[kind] = Server(store, at, environment(at))
    set_params(folder, seed=str(next(SEEDS)))
    servers[kind].start()
    yield servers[kind]
    if servers[kind].process:
        servers[kind].thaw()


@pytest.fixture
def local(folder: Path, empty_store: Path) -> str:
    """Return the address of the empty store of `folder`."""
    return f"sqlite:///{shutil.copy(empty_store, folder / 'mlflow.db')}"
