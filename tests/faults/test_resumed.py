"""A killed training resumes to the same bits, and MLflow has its curve once."""

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
from faults.stages import find_runs, set_params, stage_environment
from retrace.system import files

pytestmark = pytest.mark.xdist_group("resumed")

EPOCHS = 20
RESULTS = (
    "models/model.safetensors",
    "models/model.json",
    "reports/history.csv",
    "reports/steps.csv",
)

# The real stage; it saves each tenth of a second and sends itself a signal at a moment.
SCRIPT = """
import os, runpy, signal, sys, time
from contextlib import contextmanager
from retrace import checkpoint
from lab.evaluation import inference
from retrace.system import files
from lab.training import state
from retrace.tracking import stage

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
    """The train stage in `folder`, which may get a signal `number` at a `moment`."""

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
            env=stage_environment(folder),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def end(self) -> tuple[int, str, str]:
        """Wait for its end; return its exit code, stdout and stderr."""
        outputs = self.process.communicate(timeout=120)
        return self.process.returncode, *outputs


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the digits, downloaded and split."""
    folder = tmp_path_factory.mktemp("prepared")
    for name in ("params.yaml", "dvc.yaml"):
        shutil.copy(ROOT / name, folder)
    set_params(folder, dataset="digits", epochs=str(EPOCHS), threads="1", precision="float32")
    for name in ("download", "preprocess"):
        subprocess.run(
            [sys.executable, str(ROOT / f"stages/{name}.py")],
            cwd=folder,
            env=stage_environment(folder),
            check=True,
            capture_output=True,
        )
    return folder


@pytest.fixture(scope="session")
def expected(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Return the results of an uninterrupted training."""
    folder = tmp_path_factory.mktemp("whole") / "folder"
    shutil.copytree(prepared, folder)
    code, _, err = Attempt(folder).end()
    assert (code, err) == (0, "")
    return results(folder)


@pytest.fixture
def folder(prepared: Path, expected: dict[str, bytes], tmp_path: Path) -> Path:
    """Return a folder to train in."""
    shutil.copytree(prepared, tmp_path / "folder")
    return tmp_path / "folder"


def results(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in RESULTS}


def checkpoints(folder: Path) -> list[Path]:
    return sorted(folder.glob(".retrace/checkpoints/*/*.safetensors"))


def check_curve(folder: Path) -> None:
    """Check that the last run has each epoch of history.csv once, and the others have ended."""
    *others, ended = find_runs(f"sqlite:///{folder / 'mlflow.db'}", stage="train")
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


def test_resume_gives_same_bits(folder: Path, expected: dict[str, bytes]) -> None:
    code, _, _ = Attempt(folder, "step", 100).end()
    assert code == -signal.SIGKILL
    assert checkpoints(folder)
    code, out, _ = Attempt(folder).end()
    assert code == 0
    assert "resumed from step" in out
    assert results(folder) == expected
    assert not checkpoints(folder)
    check_curve(folder)


@pytest.mark.faults
def test_resume_after_kills_at_any_moment(folder: Path, expected: dict[str, bytes]) -> None:
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
        code, _, err = Attempt(folder, moment, at).end()
        assert code == -signal.SIGKILL, err
    for _ in range(3):
        running = Attempt(folder)
        time.sleep(random.uniform(1.0, 4.0))  # noqa: S311 - any moment
        running.process.kill()
        running.end()
    was_left = bool(checkpoints(folder))  # unless the last of them ended before it was killed
    code, out, err = Attempt(folder).end()
    assert code == 0, err
    assert ("resumed from step" in out) == was_left
    assert results(folder) == expected
    check_curve(folder)


@pytest.mark.faults
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
@pytest.mark.parametrize(
    ("moment", "at"), [("warm-up", 1), ("step", 1), ("step", 50), ("validation", 1), ("save", 1)]
)
def test_preempted_training_saves_checkpoint(
    folder: Path, moment: str, at: int, number: signal.Signals
) -> None:
    code, _, err = Attempt(folder, moment, at, number).end()
    assert code == 128 + number, err
    assert "Traceback" not in err
    if moment in ("step", "validation"):
        steps = {"step": at, "validation": 11}[moment]
        assert int(checkpoints(folder)[-1].name[:12]) == steps
    assert all(map(files.is_intact, checkpoints(folder)))
    assert time.monotonic() - float((folder / "struck").read_text()) < 30


@pytest.mark.faults
def test_resume_needs_same_params_and_data(folder: Path) -> None:
    Attempt(folder, "step", 50, signal.SIGTERM).end()
    validation = folder / "data/processed/validation.safetensors"
    before = validation.read_bytes()
    shutil.copy(folder / "data/processed/test.safetensors", validation)
    assert "resumed from" not in Attempt(folder, "step", 20, signal.SIGTERM).end()[1]
    validation.write_bytes(before)
    set_params(folder, lr="0.001")
    assert "resumed from" not in Attempt(folder, "step", 20, signal.SIGTERM).end()[1]
    assert len({path.parent for path in checkpoints(folder)}) == 3


@pytest.mark.faults
def test_damaged_checkpoint_is_skipped(folder: Path, expected: dict[str, bytes]) -> None:
    Attempt(folder, "step", 150).end()
    before, last = checkpoints(folder)
    content = bytearray(last.read_bytes())
    content[-7] ^= 16
    last.write_bytes(content)
    code, out, err = Attempt(folder).end()
    assert code == 0
    assert f"resumed from step {int(before.name[:12]):,} of " in out
    assert err.startswith(f"warning: {last}: damaged")
    assert results(folder) == expected


@pytest.mark.faults
def test_full_disk_loses_no_checkpoint(folder: Path, expected: dict[str, bytes]) -> None:
    running = Attempt(folder)
    until(lambda: checkpoints(folder), what="a checkpoint")
    psutil.Process(running.process.pid).rlimit(psutil.RLIMIT_FSIZE, (1000, 1000))
    code, _, err = running.end()
    assert code == 2, err
    assert re.search(
        r"^warning: .*safetensors: [\d,]+ bytes can't be written .* free\); free some disk space",
        err,
        re.MULTILINE,
    )
    assert re.search(
        r"^(models|reports)/\S+: more than [\d,]+ bytes can't be written ",
        err.splitlines()[-1],
    )
    assert not list(folder.glob("models/*"))
    code, out, _ = Attempt(folder).end()
    assert code == 0
    assert "resumed from step" in out
    assert results(folder) == expected


@pytest.mark.faults
def test_second_writer_is_refused(folder: Path, expected: dict[str, bytes]) -> None:
    first = Attempt(folder)
    until(lambda: checkpoints(folder), what="a checkpoint")
    code, _, err = Attempt(folder).end()
    assert code == 2
    assert err.startswith("train: ")
    assert f"process {first.process.pid}" in err
    assert first.end()[0] == 0
    assert results(folder) == expected
    check_curve(folder)
