"""Checkpoint files: the last two are kept, damaged ones are skipped, folders are locked."""

import errno
import os
import re
import resource
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from retrace import checkpoint
from retrace.checkpoint import Checkpoints
from retrace.errors import DataError
from retrace.system import files
from retrace.system.object_store import ObjectStore

pytestmark = pytest.mark.usefixtures("folder")


@pytest.fixture
def checkpoints(tmp_path: Path) -> Checkpoints:
    """Checkpoints in an empty folder."""
    path = tmp_path / "checkpoints"
    path.mkdir()
    return Checkpoints(path)


def encoded(step: int) -> Callable[[], bytes]:
    """Return a function that encodes a state of 4000 bytes."""
    weights = {"weights": np.full(1000, step, np.float32)}
    return lambda: safetensors.numpy.save(weights, {"facts": f'{{"step": {step}}}'})


def save(checkpoints: Checkpoints, *steps: int) -> None:
    for step in steps:
        checkpoints.save(step, encoded(step))


def step_of(path: Path) -> int:
    return checkpoint.facts(path)["step"]


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "a bit flipped": flip_a_bit,
    "cut short": lambda path: os.truncate(path, path.stat().st_size // 2),
    "empty": lambda path: os.truncate(path, 0),
}


def test_last_two_are_kept(checkpoints: Checkpoints) -> None:
    save(checkpoints, 5, 10, 1000)
    assert [step_of(path) for path in checkpoint.in_folder(checkpoints.folder)] == [10, 1000]
    assert checkpoints.newest(step_of) == 1000


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_checkpoint_is_skipped(
    checkpoints: Checkpoints, capsys: pytest.CaptureFixture[str], damage: str
) -> None:
    save(checkpoints, 5, 10)
    earlier, newest = checkpoint.in_folder(checkpoints.folder)
    DAMAGES[damage](newest)
    assert checkpoints.newest(step_of) == 5
    warning = capsys.readouterr().err
    assert warning.count("\n") == 1
    assert f"warning: {newest}: damaged" in warning
    DAMAGES[damage](earlier)
    assert checkpoints.newest(step_of) is None


def test_unreadable_checkpoint_is_skipped(checkpoints: Checkpoints) -> None:
    save(checkpoints, 5)
    checkpoints.save(10, lambda: b"intact, but no safetensors file")
    assert checkpoints.newest(step_of) == 5


def test_unfinished_file_is_removed(checkpoints: Checkpoints) -> None:
    save(checkpoints, 5)
    unfinished = checkpoints.folder / ".000000000010-abc.safetensors.123"
    unfinished.write_bytes(b"half")
    assert Checkpoints(checkpoints.folder).newest(step_of) == 5
    assert not unfinished.exists()


class Defect(ObjectStore):
    """A store whose library fails in a way that nobody expects."""

    def __init__(self) -> None:
        """Connect to nothing."""

    def names(self) -> list[str]:
        raise RuntimeError("odd answer")


def test_failed_upload_is_a_warning(
    checkpoints: Checkpoints, capsys: pytest.CaptureFixture[str]
) -> None:
    stored = Checkpoints(checkpoints.folder, Defect())
    save(stored, 5)
    stored.close()
    assert "RuntimeError: odd answer" in capsys.readouterr().err
    assert checkpoints.newest(step_of) == 5


def test_full_disk_keeps_older_checkpoints(
    checkpoints: Checkpoints, capsys: pytest.CaptureFixture[str]
) -> None:
    save(checkpoints, 5)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        save(checkpoints, 10, 15)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    (warning,) = capsys.readouterr().err.splitlines()
    assert re.match(rf"warning: {checkpoints.folder}/000000000010-\w+.safetensors: ", warning)
    assert os.strerror(errno.EFBIG) in warning
    assert [path.name[:12] for path in checkpoints.folder.iterdir()] == ["000000000005"]
    save(checkpoints, 20)
    assert len(checkpoint.in_folder(checkpoints.folder)) == 2


def test_second_process_gets_another_folder() -> None:
    with checkpoint.locked("abc") as first, checkpoint.locked("abc") as second:
        assert first.folder != second.folder
        save(first, 5)
    with checkpoint.locked("abc") as third:
        assert third.folder == first.folder
        assert third.newest(step_of) == 5


def test_locked_folder_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "ENDS_S", 0.1)
    with checkpoint.locked("abc") as dead:  # a machine that died may hold its lock for a while
        save(dead, 5, 10)
        with checkpoint.locked("abc") as second, checkpoint.locked("abcd") as other:
            assert second.newest(step_of) == 10
            assert other.newest(step_of) is None
            save(second, 15)
        second.delete()
        assert not second.folder.exists()
        assert dead.newest(step_of) == 10
    dead.delete()
    assert checkpoint.folders() == [other.folder]


def test_checkpoint_deleted_meanwhile(
    checkpoints: Checkpoints, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    save(checkpoints, 5, 10)
    newest = checkpoint.in_folder(checkpoints.folder)[-1]
    is_intact = files.is_intact

    def deleted_first(path: Path) -> bool:
        newest.unlink(missing_ok=True)
        return is_intact(path)

    monkeypatch.setattr(files, "is_intact", deleted_first)
    assert checkpoints.newest(step_of) == 5
    assert capsys.readouterr().err == ""


def test_shared_folder_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    monkeypatch.setenv(checkpoint.VARIABLE, str(shared))
    with checkpoint.locked("abc") as first:
        save(first, 5)
    assert first.folder == shared / "abc"
    monkeypatch.setenv("DVC_ROOT", str(tmp_path / "another clone"))
    with checkpoint.locked("abc") as second:
        assert second.newest(step_of) == 5
        assert checkpoint.folders() == [shared / "abc"]
    second.delete()
    assert list(shared.iterdir()) == []


@pytest.mark.parametrize("location", ["nowhere", "params.yaml", "gs://bucket/folder"])
def test_location_is_refused(monkeypatch: pytest.MonkeyPatch, location: str) -> None:
    monkeypatch.setenv(checkpoint.VARIABLE, location)
    start = re.escape(f"{checkpoint.VARIABLE} is {location!r}; ")
    with pytest.raises(DataError, match=f"^{start}[^\n]*$"), checkpoint.locked("abc"):
        pass
    assert not Path(checkpoint.FOLDER).exists()


def test_furthest_checkpoint_is_resumed() -> None:
    with checkpoint.locked("abc") as first:
        with checkpoint.locked("abc") as second:
            save(second, 7)
        save(first, 5)
    with checkpoint.locked("abc") as third:
        assert third.newest(step_of) == 7


def test_saving_takes_a_hundredth_of_the_time(
    checkpoints: Checkpoints, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [time.monotonic()]
    atomic = files.atomic
    monkeypatch.setattr(time, "monotonic", lambda: now[0])

    def slow(path: Path, size: int) -> object:
        now[0] += 2
        return atomic(path, size)

    monkeypatch.setattr(files, "atomic", slow)
    assert not checkpoints.is_due
    now[0] += 11
    assert checkpoints.is_due
    save(checkpoints, 1)
    now[0] += 199
    assert not checkpoints.is_due
    now[0] += 1.1
    assert checkpoints.is_due


@pytest.mark.parametrize("index", range(4))
def test_fingerprint_depends_on_every_part(index: int) -> None:
    parts = ["inputs", "machine", "cpu, 2 threads", "2.14.1"]
    other = [*parts[:index], "another", *parts[index + 1 :]]
    assert checkpoint.fingerprint(*parts) == checkpoint.fingerprint(*parts)
    assert checkpoint.fingerprint(*parts) != checkpoint.fingerprint(*other)


def test_removed_unless_in_use() -> None:
    with checkpoint.locked("a") as unused:
        save(unused, 5)
    with checkpoint.locked("b") as used:
        save(used, 5)
        assert checkpoint.folders() == [unused.folder, used.folder]
        assert [checkpoint.remove(folder) for folder in checkpoint.folders()] == [True, False]
        assert checkpoint.folders() == [used.folder]
