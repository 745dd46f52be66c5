"""A training that is stopped anywhere goes on to the same bits; what it left on the disk is whole or not used."""

import errno
import os
import re
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import typed

from lab import params
from lab.data import batches, storage
from lab.data.samples import Samples
from lab.errors import DivergedError
from lab.evaluation import inference
from lab.models import classifier
from lab.training import device, loop
from lab.training.loop import Trainer
from lab.training.state import Epoch, Step
from retrace import checkpoint, errors
from retrace.checkpoint import Checkpoints
from retrace.cli.clean import clean
from retrace.system import files

SMALL = {
    "epochs": 3,
    "batch_size": 40,
    "threads": 1,
    "lr": 0.01,
    "device": "cpu",
    "precision": "float32",
}
STEPS = 7  # an epoch

pytestmark = pytest.mark.usefixtures("folder")


@pytest.fixture
def left(tmp_path: Path) -> Path:
    """A folder for checkpoints."""
    return tmp_path / "left"


class Stopped(BaseException):
    """Where a kill would be."""


class Training:
    """One that can be stopped after a step, and resumed in another of the same parameters."""

    def __init__(self, stripes: Samples, **changed: object) -> None:
        p = typed(params.Train, **(SMALL | changed))
        compute = device.configure(p, p.precision)
        torch.manual_seed(p.seed)
        model = classifier.build(classifier.card_of(p.model, stripes, storage.scale(stripes)))
        split = batches.on_device(stripes, compute.device)
        train_split = batches.Split(split.inputs[:280], split.labels[:280])
        validation_split = batches.Split(split.inputs[280:], split.labels[280:])
        self.trainer = loop.create(p, compute, model, train_split, validation_split, n_classes=3)
        self.state = self.trainer.state
        self.steps: list[tuple[float, float]] = []

    def run(self, stop_after: int | None = None) -> Epoch:
        def on_step(step: Step) -> None:
            self.steps.append((step.learning_rate, step.loss.item()))
            if step.step == stop_after:
                raise Stopped

        return self.trainer.train(on_step, on_epoch=lambda _: None)

    def bits(self) -> dict[str, bytes]:
        return {
            name: tensor.numpy().tobytes() for name, tensor in self.state.model.state_dict().items()
        }


def whole_and_gone_on(make: Callable[[], Training]) -> tuple[Training, Training]:
    """A training that ran to its end, and one that took over where a third, by the same chance, was stopped."""
    whole, first, second = (make() for _ in range(3))
    torch.manual_seed(0)
    chance = torch.get_rng_state()
    whole.run()
    torch.set_rng_state(chance)
    with pytest.raises(Stopped):
        first.run(stop_after=STEPS + 3)
    second.state.load_state_dict(first.state.state_dict())
    second.run()
    return whole, second


KINDS = {
    "the default": {},
    "momentum": {"optimizer": "sgd"},
    "no decay": {"optimizer": "adam"},
    "a running mean": {"optimizer": "rmsprop"},
    "no memory": {"optimizer": "sgd_scratch", "model": "softmax"},
    "chance in the network, batch norm, augmentation": {
        "model": "cifar_v3",
        "augmentation": "crop_flip",
    },
    "the best epoch": {"keep": "best", "schedule": "constant", "lr": 0.2, "optimizer": "sgd"},
    "the last epoch and a plateau": {"keep": "last", "schedule": "plateau"},
    "patience": {"patience": 1, "schedule": "constant", "lr": 0.2, "optimizer": "sgd", "epochs": 9},
    "bfloat16": {"precision": "bfloat16"},
    "narrow layers": {"model": "mlp", "optimizer": "adam"},
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_training_that_is_stopped_anywhere_goes_on_to_the_same_bits(
    stripes: Samples, left: Path, kind: str
) -> None:
    whole = Training(stripes, **KINDS[kind])
    kept = whole.run()
    for stop_after in (
        1,
        STEPS - 1,
        STEPS,
        STEPS + 3,
    ):  # within an epoch, at its end before validation, in the next
        first, second = Training(stripes, **KINDS[kind]), Training(stripes, **KINDS[kind])
        with pytest.raises(Stopped):
            first.run(stop_after)
        kept_there = Checkpoints(left)
        kept_there.save(first.state.step, first.state.state_dict())
        torch.manual_seed(99)  # another process
        found = kept_there.newest()
        assert found is not None
        second.state.load_state_dict(found)
        assert second.run() == kept
        assert second.bits() == whole.bits()
        assert second.state.epochs == whole.state.epochs
        assert first.steps + second.steps == whole.steps
        assert checkpoint.remove(left)


def test_without_what_chance_has_left_the_bits_are_others(stripes: Samples) -> None:
    kind = KINDS["chance in the network, batch norm, augmentation"]
    whole, first = Training(stripes, **kind), Training(stripes, **kind)
    whole.run()
    with pytest.raises(Stopped):
        first.run(STEPS + 3)
    values = first.state.state_dict()
    for name in ("random.torch", "random.augmentation"):
        second = Training(stripes, **kind)
        second.state.load_state_dict(values | {name: torch.Generator().manual_seed(99).get_state()})
        second.run()
        assert second.bits() != whole.bits()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_in_a_step_waits_until_the_step_is_whole(
    stripes: Samples, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    whole, first, second = (Training(stripes) for _ in range(3))
    whole.run()
    step = Trainer.step

    def struck(self: Trainer, *batch: Any) -> Any:
        if self.state is first.state and self.state.step == 4:
            os.kill(os.getpid(), number)
        return step(self, *batch)

    monkeypatch.setattr(Trainer, "step", struck)
    with caught(monkeypatch), pytest.raises((KeyboardInterrupt, errors.Terminated)):
        first.run()
    assert first.state.step == 5
    second.state.load_state_dict(first.state.state_dict())
    second.run()
    assert second.bits() == whole.bits()


def test_a_signal_in_validation_is_answered_at_once(
    stripes: Samples, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, first, second = (Training(stripes) for _ in range(3))
    whole.run()

    def struck(*_: object) -> inference.Outputs:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(10)  # a signal cuts it short
        raise AssertionError("the signal was not answered")

    with monkeypatch.context() as patched:
        patched.setattr(inference, "outputs", struck)
        with caught(monkeypatch), pytest.raises(errors.Terminated):
            first.run()
    assert (first.state.step, first.state.epochs) == (STEPS, [])
    second.state.load_state_dict(first.state.state_dict())
    second.run()
    assert second.bits() == whole.bits()


@pytest.mark.parametrize(("apart_s", "out"), [(0.0, "went on\n"), (0.2, "")])
def test_the_same_signal_again_is_impatience_only_if_it_comes_later(
    apart_s: float, out: str
) -> None:
    script = (
        "import os, signal, time\nfrom retrace import errors\nerrors.IMPATIENT_S = 0.1\n"
        "def main():\n"
        "    with errors.Deferred():\n"
        "        for number in (signal.SIGTERM, signal.SIGTERM):\n"
        f"            os.kill(os.getpid(), number); time.sleep({apart_s})\n"
        "        print('went on', flush=True)\n"
        "errors.run(main)"
    )
    ended = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert (ended.returncode, ended.stdout) == (143, out)


@pytest.mark.parametrize(
    ("number", "todo"),
    [
        ("ENOSPC", "make room"),
        ("EROFS", "see that it can be read and written"),
        ("EACCES", "see that it can be read"),
    ],
)
def test_what_the_disk_does_not_allow_is_a_line(number: str, todo: str) -> None:
    raised = f"raise OSError(errno.{number}, 'said', 'a file')"
    script = f"import errno\nfrom retrace import errors\ndef main(): {raised}\nerrors.run(main)"
    ended = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.startswith(f"a file: said; {todo}")
    assert ended.stderr.endswith(", and type the same again\n")
    assert ended.stderr.count("\n") == 1


def test_what_is_ignored_stays_so() -> None:
    script = (
        "import os, signal\nfrom retrace import errors\nsignal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
        "errors.run(lambda: os.kill(os.getpid(), signal.SIGHUP))"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


@contextmanager
def caught(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Signals are answered as in a stage."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.getsignal(number) for number in numbers}
    errors.listen()
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_a_loss_that_is_no_number_ends_training_within_a_step_and_is_never_saved(
    stripes: Samples, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Training(stripes)
    step = Trainer.step

    def poisoned(self: Trainer, *batch: Any) -> Any:
        result = step(self, *batch)
        if self.state.step == 4:
            with torch.no_grad():
                self.state.model.trainable()[0].fill_(float("nan"))
        return result

    monkeypatch.setattr(Trainer, "step", poisoned)
    with pytest.raises(
        DivergedError, match=r"step 6: the training loss is nan, after \d\.\d+ in the step before"
    ):
        made.run()
    assert len(made.steps) == 6
    with pytest.raises(DivergedError, match=r"step \d: model\..* is not finite"):
        made.state.state_dict()


def saved(folder: Path, *steps: int) -> Checkpoints:
    made = Checkpoints(folder)
    for step in steps:
        made.save(step, {"weights": torch.full((1000,), float(step)), "step": step, "of": "digits"})
    return made


def flipped(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "a bit flipped": flipped,
    "cut short": lambda path: os.truncate(path, path.stat().st_size // 2),
    "empty": lambda path: os.truncate(path, 0),
}


def test_the_last_two_are_kept_and_the_newest_is_found(left: Path) -> None:
    made = saved(left, 5, 10, 1000)
    assert [int(path.name[:12]) for path in checkpoint.in_folder(left)] == [10, 1000]
    found = made.newest()
    assert found is not None
    assert (found["step"], found["weights"][0]) == (1000, 1000.0)


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_one_falls_back_to_the_one_before(
    left: Path, capsys: pytest.CaptureFixture[str], damage: str
) -> None:
    made = saved(left, 5, 10)
    last = checkpoint.in_folder(left)[-1]
    DAMAGES[damage](last)
    found = made.newest()
    assert found is not None
    assert found["step"] == 5
    assert (
        capsys.readouterr().err
        == f"warning: {last}: damaged, so the checkpoint before it is taken\n"
    )
    DAMAGES[damage](checkpoint.in_folder(left)[-1])
    assert made.newest() is None


def test_what_a_kill_left_half_written_is_no_checkpoint_and_goes(left: Path) -> None:
    saved(left, 5)
    half = left / ".000000000010-abc.safetensors.123"
    half.write_bytes(b"half")
    found = Checkpoints(left).newest()
    assert found is not None
    assert found["step"] == 5
    assert not half.exists()


def test_a_full_disk_costs_a_warning_and_no_checkpoint_that_was_there(
    left: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = saved(left, 5)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        for step in (10, 15):
            made.save(step, {"weights": torch.zeros(1000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    (said,) = capsys.readouterr().err.splitlines()
    assert re.search(
        rf"^warning: {left}/000000000010-\w+.safetensors: 4,\d+ bytes can't be written ", said
    )
    assert os.strerror(errno.EFBIG) in said
    assert [path.name[:12] for path in left.iterdir()] == ["000000000005"]
    made.save(20, {"weights": torch.zeros(1000)})
    assert len(checkpoint.in_folder(left)) == 2


def test_two_of_the_very_same_training_have_a_folder_each() -> None:
    with checkpoint.locked("abc") as first, checkpoint.locked("abc") as second:
        assert first.folder != second.folder
        saved(first.folder, 5)
    with checkpoint.locked("abc") as third:
        assert third.folder == first.folder
        assert third.newest()


def test_the_next_is_due_after_seconds_and_takes_a_hundredth_of_them(
    left: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    made, atomic = Checkpoints(left), files.atomic

    def slow(path: Path, size: int) -> object:
        now[0] += 2
        return atomic(path, size)

    monkeypatch.setattr(files, "atomic", slow)
    assert not made.is_due
    now[0] += 10
    assert made.is_due
    made.save(1, {"weights": torch.zeros(1)})
    now[0] += 199
    assert not made.is_due
    now[0] += 1
    assert made.is_due


@pytest.mark.parametrize("part", range(4))
def test_another_training_has_another_fingerprint(part: int) -> None:
    parts = ["inputs", "machine", "cpu, 2 threads", "2.14.1"]
    other = [*parts[:part], "another", *parts[part + 1 :]]
    assert (
        checkpoint.fingerprint(*parts)
        == checkpoint.fingerprint(*parts)
        != checkpoint.fingerprint(*other)
    )


def test_what_was_saved_beside_another_is_found_later() -> None:
    with checkpoint.locked("abc") as first:
        with checkpoint.locked("abc") as second:
            saved(second.folder, 7)
        saved(first.folder, 5)
    with checkpoint.locked("abc") as third:
        found = third.newest()
        assert found is not None
        assert found["step"] == 7


def test_what_cannot_be_gone_on_from_is_listed_and_removed_too(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name in ("damaged", "half", "nothing"):
        with checkpoint.locked(name) as made:
            if name == "damaged":
                DAMAGES["empty"](checkpoint.in_folder(saved(made.folder, 5).folder)[0])
            elif name == "half":
                (made.folder / ".000000000010-abc.safetensors.123").write_bytes(b"half")
    clean(force=True)
    listed = capsys.readouterr().out.splitlines()
    assert listed[0] == "damaged  no usable checkpoint, 0 bytes"
    assert listed[1] == "half  no usable checkpoint, 4 bytes"
    assert listed[-1] == "removed: 4 bytes"
    assert checkpoint.every() == []


def test_clean_lists_what_can_go_on_and_removes_what_nobody_uses(
    capsys: pytest.CaptureFixture[str],
) -> None:
    clean(force=False)
    assert capsys.readouterr().out == "no checkpoints: no training was interrupted\n"
    with checkpoint.locked("a" * 32) as unused:
        saved(unused.folder, 1234)
    with checkpoint.locked("b" * 32) as used:
        saved(used.folder, 7)
        clean(force=False)
        listed = capsys.readouterr().out.splitlines()
        assert listed[0].startswith("aaaaaaaa  digits: step 1,234, saved 20")
        assert listed[1].startswith("bbbbbbbb  digits: step 7, ")
        assert listed[1].endswith(", in use")
        assert "retrace clean --force" in listed[2]
        clean(force=True)
        assert capsys.readouterr().out.splitlines()[-1].startswith("removed: 4.")
        assert (unused.folder.exists(), used.folder.exists()) == (False, True)
