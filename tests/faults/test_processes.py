"""Whatever is killed of a training in several processes, its results have the same bits."""

import signal
from pathlib import Path

import pytest
from launched import (
    RESULTS,
    Launched,
    copied,
    is_alive,
    newest,
    prepare,
    results,
    until,
    unused_port,
)

from faults.stages import event_logs, find_runs

pytestmark = [pytest.mark.faults, pytest.mark.xdist_group("processes")]
GOES_ON_S = 30.0


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepare(tmp_path_factory.mktemp("digits"))


@pytest.fixture(scope="module")
def expected(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Return the results of an uninterrupted training."""
    folder = copied(prepared, tmp_path_factory.mktemp("whole") / "folder")
    with Launched(folder) as training:
        assert training.end()[0] == 0, training.stderr
        assert training.stderr == ""
    return results(folder)


@pytest.fixture
def folder(prepared: Path, expected: dict[str, bytes], tmp_path: Path) -> Path:
    return copied(prepared, tmp_path / "folder")


def test_killed_ranks_resume(folder: Path, expected: dict[str, bytes]) -> None:
    seconds: list[float] = []
    with Launched(folder) as training:
        for rank, step in ((0, 15), (1, 35), (2, 55)):
            training.at(step)
            seconds.append(training.kill(rank))
        assert training.end()[0] == 0, training.stderr
    print("resumed after", *(f"{each:.1f} s" for each in seconds))
    assert max(seconds) < GOES_ON_S
    assert results(folder) == expected
    assert training.stderr.count("\n") == 3  # a warning each
    assert training.stderr.count("warning: ") == 3
    assert sum("-train-" in path.name for path in event_logs(folder)) == 1
    (run,) = find_runs(f"sqlite:///{folder / 'mlflow.db'}", stage="train")
    assert run.info.status == "FINISHED"


def test_killed_rank_without_restart(folder: Path, expected: dict[str, bytes]) -> None:
    with Launched(folder, RETRACE_RESTARTS="0") as training:
        training.at(30)
        training.ranks()[1].kill()
        assert training.end()[0] == 128 + signal.SIGKILL
    assert "process 1 of 3" in training.stderr
    assert "SIGKILL" in training.stderr
    assert training.stderr.count("\n") == 1
    with Launched(folder, RETRACE_RESTARTS="0") as training:
        assert training.end()[0] == 0
    assert "resumed from step" in training.stdout
    assert results(folder) == expected
    statuses = [
        run.info.status for run in find_runs(f"sqlite:///{folder}/mlflow.db", stage="train")
    ]
    assert statuses == ["FAILED", "FINISHED"]


def test_killed_launchers_are_replaced(folder: Path, expected: dict[str, bytes]) -> None:
    port = unused_port()

    def node(number: int) -> Launched:
        return Launched(
            folder,
            RETRACE_RENDEZVOUS=f"127.0.0.1:{port}",
            RETRACE_NODES="2",
            RETRACE_NODE=str(number),
        )

    with node(0) as first, node(1) as second:
        first.at(20)
        first.process.kill()
        code, seconds = second.end()
        assert code == 1
        assert seconds < 15
        assert second.stderr.splitlines()[-1].startswith(
            f"node 0 does not answer at 127.0.0.1:{port};"
        )
    port = unused_port()
    with node(0) as first, node(1) as second:
        first.at(newest(folder) + 20)
        second.process.kill()
        with node(1) as third:
            assert first.end()[0] == 0, first.stderr
            assert third.end()[0] == 0, third.stderr
    assert results(folder) == expected
    assert (third.stdout, third.stderr) == ("", "")
    assert first.stdout.count("resumed from step") == 2


def test_killed_launcher_leaves_no_rank(folder: Path, expected: dict[str, bytes]) -> None:
    with Launched(folder) as training:
        training.at(20)
        ranks = training.ranks().values()
        training.process.kill()
        training.process.wait()
        until(lambda: not any(map(is_alive, ranks)), "end of the ranks", 5)
    with Launched(folder) as training:
        assert training.end()[0] == 0
    assert "resumed from step" in training.stdout
    assert results(folder) == expected


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)], ids=["SIGTERM", "SIGINT"]
)
def test_stopped_training_resumes(
    folder: Path, expected: dict[str, bytes], number: signal.Signals, code: int
) -> None:
    with Launched(folder) as training:
        training.at(20)
        ranks = training.ranks().values()
        before = newest(folder)
        training.process.send_signal(number)
        training.process.send_signal(number)  # as a group's and DVC's come together
        until(lambda: not any(map(is_alive, ranks)), "end of the ranks", 5)
        ended = training.end()  # when the run is uploaded
        assert ended[0] == code, training.stderr
        print("stopped after", ended)
        assert training.stderr in ("terminated\n", "interrupted\n")
    assert newest(folder) > before
    with Launched(folder) as training:
        assert training.end()[0] == 0
    assert f"resumed from step {newest_in(training.stdout)}" in training.stdout
    assert results(folder) == expected
    assert not list(folder.glob(".retrace/checkpoints/*/*"))
    assert all((folder / name).exists() for name in RESULTS)


def newest_in(out: str) -> str:
    return out.split("resumed from step ")[1].split(" ", maxsplit=1)[0]
