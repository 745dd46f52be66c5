"""A warning if no step ends: when it appears, and when it does not."""

from collections.abc import Callable, Iterable
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from lab.training import progress, watchdog
from lab.training.recorder import Recorder
from lab.training.state import Epoch, Step
from lab.training.watchdog import CHECKS, QUIET_S, Watchdog

EPOCH = Epoch(1, 0.5, 0.75, 0.4, 0.8)


def step(number: int) -> Step:
    return Step(number, 64, 0.1, torch.tensor(0.25), torch.tensor(48))


def watched(between: Callable[[Watchdog, int], object], n_checks: int) -> None:
    """Let the watchdog check, with `between` called before each check."""
    dog = Watchdog(steps_per_epoch=10)
    checks = iter(range(n_checks))

    def wait(seconds: float) -> bool:
        assert seconds == QUIET_S / CHECKS
        number = next(checks, None)
        if number is not None:
            between(dog, number)
        return number is None

    dog.ended = SimpleNamespace(wait=wait)  # pyright: ignore[reportAttributeAccessIssue]
    dog.watch()


def test_standstill_is_warned_of_seldom(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GOMP_SPINCOUNT", "7")
    watched(lambda dog, number: number == 0 and dog.step(step(1)), 5 * CHECKS)
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(" within ")[1].split(";")[0] for line in lines] == [
        "120 s",
        "240 s",
        "480 s",
    ]
    assert "GOMP_SPINCOUNT=7" in lines[0]
    assert "-S threads=1" in lines[0]


def test_first_step_is_watched_too(capsys: pytest.CaptureFixture[str]) -> None:
    watched(lambda *_: None, CHECKS)
    assert len(capsys.readouterr().err.splitlines()) == 1


def progress_slowly(dog: Watchdog, number: int) -> None:
    if number % (CHECKS - 1) == 0:
        dog.step(step(1))


def validate_for_long(dog: Watchdog, number: int) -> None:
    if number == 0:
        dog.step(step(10))


def end_epochs(dog: Watchdog, number: int) -> None:
    if number % 2 == 0:
        dog.step(step(10 * number + 10))
    else:
        dog.epoch(EPOCH)


@pytest.mark.parametrize("between", [progress_slowly, validate_for_long, end_epochs])
def test_slow_progress_is_silent(
    between: Callable[[Watchdog, int], None], capsys: pytest.CaptureFixture[str]
) -> None:
    watched(between, 10 * CHECKS)
    assert capsys.readouterr().err == ""


def test_recorder_reports_to_the_watchdog() -> None:
    trainer = SimpleNamespace(state=None, p=SimpleNamespace(epochs=2), total_steps=20)
    run = SimpleNamespace(log=lambda *_: None, sync=lambda: None)
    record: Any = Recorder(
        cast("Any", run), cast("Any", SimpleNamespace(is_due=False)), cast("Any", trainer)
    )
    record.lines = progress.Lines(2)
    record.watchdog = Watchdog(10)
    record.on_step(step(10))
    assert record.watchdog.state == (1, False)
    record.on_epoch(EPOCH)
    assert record.watchdog.state == (2, True)


def test_thread_warns_and_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watchdog, "QUIET_S", 0.02)
    lines: list[Iterable[object]] = []
    monkeypatch.setattr(watchdog, "print", lambda *texts, **_: lines.append(texts), raising=False)
    with watchdog.watching(10) as dog:
        while not lines:
            dog.ended.wait(0.01)
    assert dog.ended.is_set()
