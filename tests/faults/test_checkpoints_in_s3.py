"""Checkpoints in a real S3 store: another machine resumes from them, an outage costs nothing."""

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from faults.servers import Weed, until, unused_port
from retrace import checkpoint
from retrace.checkpoint import Checkpoints
from retrace.errors import DataError
from retrace.system.object_store import ObjectStore

pytestmark = [pytest.mark.faults, pytest.mark.xdist_group("s3_checkpoints")]

ADDRESS = "s3://retrace/checkpoints"


@pytest.fixture(scope="module")
def weed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Weed]:
    with Weed(tmp_path_factory.mktemp("s3")).running() as weed:
        yield weed


@pytest.fixture
def enter_machine(
    weed: Weed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str], None]:
    """Return a function that enters the repository of a machine which has only S3 in common."""
    for name, value in weed.sets.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv(checkpoint.VARIABLE, f"{ADDRESS}/")

    def enter(name: str) -> None:
        (tmp_path / name).mkdir(exist_ok=True)
        monkeypatch.setenv("DVC_ROOT", str(tmp_path / name))

    return enter


@pytest.fixture
def store(enter_machine: Callable[[str], None]) -> Iterator[ObjectStore]:
    """Yield the store's folder of the training `abc`; delete its files afterwards."""
    store = ObjectStore(f"{ADDRESS}/abc")
    assert store.names() == []
    yield store
    for name in store.names():
        store.delete(name)


def encoded(step: int) -> bytes:
    weights = {"weights": np.full(1000, step, np.float32)}
    return safetensors.numpy.save(weights, {"facts": f'{{"step": {step}}}'})


def save(checkpoints: Checkpoints, *steps: int) -> None:
    for step in steps:
        checkpoints.save(step, lambda step=step: encoded(step))


def step_of(path: Path) -> int:
    return checkpoint.facts(path)["step"]


def steps(store: ObjectStore) -> list[int]:
    return [int(name[:12]) for name in store.names()]


def test_another_machine_resumes(enter_machine: Callable[[str], None], store: ObjectStore) -> None:
    enter_machine("first")
    with checkpoint.locked("abc") as first:
        assert first.newest(step_of) is None
        save(first, 5)
        until(lambda: steps(store) == [5])
        save(first, 10, 15)
    assert steps(store) in ([5, 15], [10, 15])
    enter_machine("second")
    with checkpoint.locked("abc") as second:
        assert second.newest(step_of) == 15
        save(second, 20)
    enter_machine("first")
    with checkpoint.locked("abc") as first:
        assert first.newest(step_of) == 20
    first.delete()
    assert store.names() == []


def test_local_checkpoint_is_further(
    enter_machine: Callable[[str], None], store: ObjectStore
) -> None:
    enter_machine("only")
    with checkpoint.locked("abc") as first:
        save(first, 5)
    store.delete(store.names()[0])
    with checkpoint.locked("abc") as second:
        assert second.newest(step_of) == 5


@pytest.mark.parametrize("where", ["local", "store"])
def test_damaged_checkpoint_is_skipped(
    enter_machine: Callable[[str], None],
    store: ObjectStore,
    capsys: pytest.CaptureFixture[str],
    where: str,
) -> None:
    enter_machine("first")
    with checkpoint.locked("abc") as first:
        save(first, 5)
        until(lambda: steps(store) == [5])
        save(first, 10)
    newest = checkpoint.in_folder(first.folder)[-1]
    os.truncate(newest, 100)
    if where == "store":
        store.upload(newest)
        enter_machine("second")
    with checkpoint.locked("abc") as second:
        assert second.newest(step_of) == {"local": 10, "store": 5}[where]
    (warning,) = capsys.readouterr().err.splitlines()
    assert re.match(rf"warning: \S+{newest.name}: damaged", warning)


def test_outage_warns_once(
    enter_machine: Callable[[str], None],
    store: ObjectStore,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    enter_machine("only")
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://127.0.0.1:{unused_port()}")
    with checkpoint.locked("abc") as checkpoints:
        save(checkpoints, 5, 10)
    (warning,) = capsys.readouterr().err.splitlines()
    assert warning.startswith(f"warning: {ADDRESS}/abc: ")
    assert [step_of(path) for path in checkpoint.in_folder(checkpoints.folder)] == [5, 10]
    with (
        pytest.raises(DataError, match="AWS_ENDPOINT_URL_S3"),
        checkpoint.locked("abc") as checkpoints,
    ):
        checkpoints.newest(step_of)


def test_wrong_key_is_refused(
    enter_machine: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    enter_machine("only")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with (
        checkpoint.locked("abc") as checkpoints,
        pytest.raises(DataError, match=rf"^{ADDRESS}/abc: [^\n]+AWS_SECRET_ACCESS_KEY"),
    ):
        checkpoints.newest(step_of)
