"""A training that is killed goes on, with the same command, to the same bits; MLflow has its curve once."""

import csv
import io
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from mlflow import MlflowClient
from repository import ROOT

from faults.servers import until
from faults.stages import another, found, surroundings
from retrace.system import files

pytestmark = pytest.mark.xdist_group("resumed")

EPOCHS = 20
MADE = ("models/model.safetensors", "models/model.json", "reports/history.csv", "reports/steps.csv")

# The real stage, which saves every tenth of a second, and at a moment kills itself as nothing else could that exactly.
SCRIPT = """
import os, runpy, signal, sys, time
from contextlib import contextmanager
from retrace import checkpoint
from lab.evaluation import inference
from retrace.system import files
from lab.training import state
from retrace.tracking.stage import stage

checkpoint.EVERY_S, checkpoint.SHARE, stage.ENDS_S = 0.1, 1.0, 1.0
moment, at, number = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
calls = 0

def strike():
    global calls
    calls += 1
    if calls == at:
        with open("struck", "w") as file:
            file.write(str(time.monotonic()))
        for _ in range(2):  # as a group's and DVC's come together
            os.kill(os.getpid(), number)

def before(owner, name):
    whole = getattr(owner, name)
    def struck(*arguments, **named):
        strike()
        return whole(*arguments, **named)
    setattr(owner, name, struck)

atomic = files.atomic

@contextmanager
def half(path, size=None):
    with atomic(path, size) as unfinished:
        yield unfinished
        if path.parent.parent.name == "checkpoints":
            if calls + 1 == at and number == signal.SIGKILL:
                unfinished.write_bytes(unfinished.read_bytes()[:-100])
            strike()

if moment == "step":
    before(state.State, "add_step")
elif moment == "validation":
    before(inference, "outputs")
elif moment == "save":
    files.atomic = half
elif moment == "warm-up":
    from lab.models import summary
    before(summary, "save")
sys.argv = [sys.argv[4]]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


class Attempt:
    """The train stage in `folder`, which a signal `number` may reach at a moment of its own."""

    def __init__(
        self, folder: Path, moment: str = "", at: int = 0, number: int = signal.SIGKILL
    ) -> None:
        command = [
            sys.executable,
            "-c",
            SCRIPT,
            moment,
            str(at),
            str(int(number)),
            str(ROOT / "stages/train.py"),
        ]
        self.folder = folder
        self.process = subprocess.Popen(
            command,
            cwd=folder,
            env=surroundings(folder),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def end(self) -> tuple[int, str, str]:
        """Its exit code, and what it said."""
        said = self.process.communicate(timeout=120)
        return self.process.returncode, *said


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the digits, dealt."""
    place = tmp_path_factory.mktemp("prepared")
    for name in ("params.yaml", "dvc.yaml"):
        shutil.copy(ROOT / name, place)
    another(place, dataset="digits", epochs=str(EPOCHS), threads="1", precision="float32")
    for name in ("download", "preprocess"):
        subprocess.run(
            [sys.executable, str(ROOT / f"stages/{name}.py")],
            cwd=place,
            env=surroundings(place),
            check=True,
            capture_output=True,
        )
    return place


@pytest.fixture(scope="session")
def expected(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What a training makes that nobody interrupts."""
    place = tmp_path_factory.mktemp("whole") / "place"
    shutil.copytree(prepared, place)
    code, _, said = Attempt(place).end()
    assert (code, said) == (0, "")
    return made(place)


@pytest.fixture
def place(prepared: Path, expected: dict[str, bytes], tmp_path: Path) -> Path:
    """A folder to train in."""
    shutil.copytree(prepared, tmp_path / "place")
    return tmp_path / "place"


def made(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in MADE}


def checkpoints(folder: Path) -> list[Path]:
    return sorted(folder.glob(".retrace/checkpoints/*/*.safetensors"))


def check_curve(folder: Path) -> None:
    """MLflow's run of the training that ended last has each epoch once, as reports/history.csv has it; others were
    killed, unless they had ended before.
    """
    *others, ended = found(f"sqlite:///{folder / 'mlflow.db'}", stage="train")
    assert {run.info.status for run in others} <= {"KILLED", "FINISHED"}
    assert ended.info.status == "FINISHED"
    rows = list(csv.DictReader(io.StringIO((folder / "reports/history.csv").read_text())))
    for name in ("train_loss", "val_accuracy"):
        curve = MlflowClient(f"sqlite:///{folder / 'mlflow.db'}").get_metric_history(
            ended.info.run_id, name
        )
        assert [(point.step, point.value) for point in curve] == [
            (int(row["epoch"]), float(row[name])) for row in rows
        ]
        assert [point.timestamp for point in curve] == sorted({point.timestamp for point in curve})


def test_a_training_that_is_killed_goes_on_to_the_same_bits(
    place: Path, expected: dict[str, bytes]
) -> None:
    code, _, _ = Attempt(place, "step", 100).end()
    assert code == -signal.SIGKILL
    assert checkpoints(place)
    code, out, _ = Attempt(place).end()
    assert code == 0
    assert "resumed from step" in out
    assert made(place) == expected
    assert not checkpoints(place)
    check_curve(place)


@pytest.mark.faults
def test_killed_again_and_again_at_any_moment(place: Path, expected: dict[str, bytes]) -> None:
    moments = [
        ("step", 70),
        ("save", 2),
        ("validation", 4),
        ("step", 1),
        ("save", 1),
        ("warm-up", 1),
        ("step", 90),
    ]
    for moment, at in moments:
        code, _, said = Attempt(place, moment, at).end()
        assert code == -signal.SIGKILL, said
    for _ in range(3):
        running = Attempt(place)
        time.sleep(random.uniform(1.0, 4.0))  # noqa: S311 - any moment
        running.process.kill()
        running.end()
    was_left = bool(checkpoints(place))  # unless the last of them ended before it was killed
    code, out, said = Attempt(place).end()
    assert code == 0, said
    assert ("resumed from step" in out) == was_left
    assert made(place) == expected
    check_curve(place)


@pytest.mark.faults
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
@pytest.mark.parametrize(
    ("moment", "at"), [("warm-up", 1), ("step", 1), ("step", 50), ("validation", 1), ("save", 1)]
)
def test_a_preempted_training_saves_and_ends_as_a_shell_expects(
    place: Path, moment: str, at: int, number: signal.Signals
) -> None:
    code, _, said = Attempt(place, moment, at, number).end()
    assert code == 128 + number, said
    assert "Traceback" not in said
    if moment in ("step", "validation"):
        steps = {"step": at, "validation": 11}[moment]
        assert int(checkpoints(place)[-1].name[:12]) == steps
    assert all(map(files.is_intact, checkpoints(place)))
    assert time.monotonic() - float((place / "struck").read_text()) < 30


@pytest.mark.faults
def test_other_parameters_or_data_are_another_training(place: Path) -> None:
    Attempt(place, "step", 50, signal.SIGTERM).end()
    validation = place / "data/processed/validation.safetensors"
    before = validation.read_bytes()
    shutil.copy(place / "data/processed/test.safetensors", validation)
    assert "resumed from" not in Attempt(place, "step", 20, signal.SIGTERM).end()[1]
    validation.write_bytes(before)
    another(place, lr="0.001")
    assert "resumed from" not in Attempt(place, "step", 20, signal.SIGTERM).end()[1]
    assert len(list(place.glob(".retrace/checkpoints/*"))) == 3


@pytest.mark.faults
def test_a_damaged_checkpoint_costs_a_warning_and_some_steps(
    place: Path, expected: dict[str, bytes]
) -> None:
    Attempt(place, "step", 150).end()
    before, last = checkpoints(place)
    content = bytearray(last.read_bytes())
    content[-7] ^= 16
    last.write_bytes(content)
    code, out, said = Attempt(place).end()
    assert code == 0
    assert f"resumed from step {int(before.name[:12]):,} of " in out
    assert said.startswith(f"warning: {last}: damaged")
    assert made(place) == expected


@pytest.mark.faults
def test_a_full_disk_loses_no_checkpoint(place: Path, expected: dict[str, bytes]) -> None:
    running = Attempt(place)
    until(lambda: checkpoints(place), what="a checkpoint")
    psutil.Process(running.process.pid).rlimit(psutil.RLIMIT_FSIZE, (1000, 1000))
    code, _, said = running.end()
    assert code == 2, said
    assert re.search(
        r"^warning: .*safetensors: [\d,]+ bytes can't be written .* free\); make room for it",
        said,
        re.MULTILINE,
    )
    assert re.search(
        r"^models/model.safetensors: more than [\d,]+ bytes can't be written ",
        said.splitlines()[-1],
    )
    assert not list(place.glob("models/*"))
    code, out, _ = Attempt(place).end()
    assert code == 0
    assert "resumed from step" in out
    assert made(place) == expected


@pytest.mark.faults
def test_a_second_writer_is_refused(place: Path, expected: dict[str, bytes]) -> None:
    first = Attempt(place)
    until(lambda: checkpoints(place), what="a checkpoint")
    code, _, said = Attempt(place).end()
    assert code == 2
    assert (
        said
        == f"train: process {first.process.pid} runs it in this folder; wait until it ends, or end it\n"
    )
    assert first.end()[0] == 0
    assert made(place) == expected
    check_curve(place)
