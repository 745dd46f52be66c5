"""A training that is stopped after any step is resumed to the same bits."""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from trainings import KINDS, N_STEPS, Stopped, Training

from lab.data.samples import Samples
from lab.errors import DivergedError
from lab.evaluation import inference
from lab.training import state_file
from lab.training.loop import Trainer
from retrace import errors
from retrace.checkpoint import Checkpoints

pytestmark = pytest.mark.usefixtures("folder")

LAST_OF_EPOCH = N_STEPS  # stopped before validation


@pytest.mark.parametrize("kind", KINDS)
def test_resumed_training_gives_same_bits(stripes: Samples, tmp_path: Path, kind: str) -> None:
    complete = Training(stripes, **KINDS[kind])
    kept = complete.run()
    for stop_after in (1, N_STEPS - 1, LAST_OF_EPOCH, N_STEPS + 3):
        stopped = Training(stripes, **KINDS[kind])
        resumed = Training(stripes, **KINDS[kind])
        with pytest.raises(Stopped):
            stopped.run(stop_after)
        folder = tmp_path / f"after {stop_after}"
        folder.mkdir()
        checkpoints = Checkpoints(folder)
        state = stopped.state
        checkpoints.save(state.step, lambda state=state: state_file.encode(state.state_dict()))
        torch.manual_seed(99)  # as another process would have it
        values = checkpoints.newest(state_file.load)
        assert values is not None
        resumed.state.load_state_dict(values)
        assert resumed.run() == kept
        assert resumed.bits() == complete.bits()
        assert resumed.state.epochs == complete.state.epochs
        assert stopped.steps + resumed.steps == complete.steps


@pytest.mark.parametrize("name", ["random.torch", "random.augmentation"])
def test_rng_state_decides_the_bits(stripes: Samples, name: str) -> None:
    kind = KINDS["dropout, batch norm, augmentation"]
    complete = Training(stripes, **kind)
    stopped = Training(stripes, **kind)
    resumed = Training(stripes, **kind)
    complete.run()
    with pytest.raises(Stopped):
        stopped.run(N_STEPS + 3)
    other = {name: torch.Generator().manual_seed(99).get_state()}
    resumed.state.load_state_dict(stopped.state.state_dict() | other)
    resumed.run()
    assert resumed.bits() != complete.bits()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_waits_for_end_of_step(
    stripes: Samples, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    complete, stopped, resumed = (Training(stripes) for _ in range(3))
    complete.run()
    step = Trainer.step

    def interrupted(self: Trainer, *batch: Any) -> Any:
        if self.state is stopped.state and self.state.step == 4:
            os.kill(os.getpid(), number)
        return step(self, *batch)

    monkeypatch.setattr(Trainer, "step", interrupted)
    with signals_as_in_a_stage(), pytest.raises((KeyboardInterrupt, errors.Terminated)):
        stopped.run()
    assert stopped.state.step == 5
    resumed.state.load_state_dict(stopped.state.state_dict())
    resumed.run()
    assert resumed.bits() == complete.bits()


def test_signal_interrupts_validation(stripes: Samples, monkeypatch: pytest.MonkeyPatch) -> None:
    complete, stopped, resumed = (Training(stripes) for _ in range(3))
    complete.run()

    def interrupted(*_: object) -> inference.Outputs:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(10)  # the signal cuts it short
        raise AssertionError("the signal was not answered")

    with monkeypatch.context() as patched:
        patched.setattr(inference, "outputs", interrupted)
        with signals_as_in_a_stage(), pytest.raises(errors.Terminated):
            stopped.run()
    assert (stopped.state.step, stopped.state.epochs) == (N_STEPS, [])
    resumed.state.load_state_dict(stopped.state.state_dict())
    resumed.run()
    assert resumed.bits() == complete.bits()


@contextmanager
def signals_as_in_a_stage() -> Iterator[None]:
    """Raise the exceptions of signals, and restore their handlers at the end."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.getsignal(number) for number in numbers}
    errors.listen()
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_nan_loss_ends_training_and_is_not_saved(
    stripes: Samples, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = Training(stripes)
    step = Trainer.step

    def poisoned(self: Trainer, *batch: Any) -> Any:
        result = step(self, *batch)
        if self.state.step == 4:
            with torch.no_grad():
                self.state.model.trainable()[0].fill_(float("nan"))
        return result

    monkeypatch.setattr(Trainer, "step", poisoned)
    with pytest.raises(DivergedError, match=r"step 6: .* loss is nan, after \d\.\d+ "):
        training.run()
    assert len(training.steps) == 6
    with pytest.raises(DivergedError, match=r"step \d: model\..* is NaN or infinite"):
        training.state.state_dict()
