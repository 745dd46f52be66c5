"""Servers that are real, one for all tests of a kind of database; and `folder`, outside any of them."""

import itertools
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from repository import environment

from faults.servers import Postgres, Server
from faults.stages import another

SEEDS = itertools.count(1000)
DATABASES = ("sqlite", pytest.param("postgresql", marks=pytest.mark.faults))
LONGEST = (
    "test_dvc.py",
    "test_outage.py",
    "test_team_server.py",
    "test_a_sweep_of_twelve",
    "test_resumed.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes longest begins first, so that no worker is left alone with it at the end."""

    def rank(item: pytest.Item) -> int:
        return next(
            (number for number, name in enumerate(LONGEST) if name in item.nodeid), len(LONGEST)
        )

    items.sort(key=rank)


@pytest.fixture(scope="session")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Server]]:
    """By the kind of its database, each server that was asked for."""
    made: dict[str, Server] = {}
    yield made
    for server in made.values():
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
    """A server that answers, and in `folder` an experiment that it does not know. Whatever a test does to the server,
    the next finds it up again.
    """
    kind = request.param
    if kind not in servers:
        place = tmp_path_factory.mktemp(kind)
        if kind == "sqlite":
            store = f"sqlite:///{shutil.copy(empty_store, place / 'mlflow.db')}"
        else:
            store = request.getfixturevalue("postgres").make("mlflow")
        servers[kind] = Server(store, place, environment(place))
    another(folder, seed=str(next(SEEDS)))
    servers[kind].start()
    yield servers[kind]
    if servers[kind].process:
        servers[kind].thaw()


@pytest.fixture
def local(folder: Path, empty_store: Path) -> str:
    """The address of the store of `folder`, which is there and empty."""
    return f"sqlite:///{shutil.copy(empty_store, folder / 'mlflow.db')}"
