"""The train stage in several processes, started as a user does, whose ranks a test can signal."""

import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
from repository import ROOT, environment

PROCESSES = 3
EPOCHS = 8
STEPS = 11 * EPOCHS
RESULTS = (
    "models/model.safetensors",
    "models/model.json",
    "reports/history.csv",
    "reports/steps.csv",
)
SMALL = {
    "dataset": "digits",
    "epochs": str(EPOCHS),
    "device": "cpu",
    "threads": "1",
    "precision": "float32",
    "processes": str(PROCESSES),
}

# The real stage, in all its processes; it saves a checkpoint each tenth of a second. The ranks that
# FAILING names raise an error when they validate.
SCRIPT = """
import os, runpy, sys
from retrace import checkpoint, errors
from lab.training import loop
checkpoint.EVERY_S, checkpoint.SHARE = 0.1, 1.0
def fail(*_):
    raise ValueError("wet") if os.environ["FAILING"] == "1" else errors.ParamsError("dry")
if os.environ.get("RANK", "none") in os.environ.get("FAILING", ""):
    loop.validate = fail
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def until(condition: Callable[[], Any], what: str, within_s: float = 120.0) -> Any:
    """Wait until a condition is true, and return its value; fail after `within_s` seconds."""
    deadline = time.monotonic() + within_s
    while not (value := condition()):
        assert time.monotonic() < deadline, f"not within {within_s:.0f} s: {what}"
        time.sleep(0.05)
    return value


def set_params(folder: Path, **values: str) -> None:
    """Change values in params.yaml."""
    params = folder / "params.yaml"
    text = params.read_text()
    for key, value in values.items():
        text, n = re.subn(rf"^{key}:.*", f"{key}: {value}", text, flags=re.MULTILINE)
        assert n == 1, key
    params.write_text(text)


def prepare(folder: Path, **changed: str) -> Path:
    """Create a folder with the digits, downloaded and split, to train in."""
    folder.mkdir(exist_ok=True)
    for name in ("params.yaml", "dvc.yaml", "pyproject.toml"):
        shutil.copy(ROOT / name, folder)
    set_params(folder, **(SMALL | changed))
    for name in ("download", "preprocess"):
        command = [sys.executable, str(ROOT / f"stages/{name}.py")]
        env = stage_environment(folder)
        subprocess.run(command, cwd=folder, env=env, check=True, capture_output=True)
    return folder


def stage_environment(folder: Path) -> dict[str, str]:
    return environment(folder / "cache") | {"PYTHONPATH": str(ROOT / "src")}


class Launched:
    """A running train stage. At the end of the context, its launcher is killed, and so all."""

    def __init__(self, folder: Path, **env: str) -> None:
        self.folder = folder
        self.out = folder / f"out-{time.monotonic_ns()}"
        self.err = self.out.with_name(f"{self.out.name}-err")
        command = [sys.executable, "-c", SCRIPT, str(ROOT / "stages/train.py")]
        with self.out.open("wb") as out, self.err.open("wb") as err:
            self.process = subprocess.Popen(
                command,
                cwd=folder,
                env=stage_environment(folder) | env,
                stdout=out,
                stderr=err,
            )

    @property
    def stdout(self) -> str:
        return self.out.read_text()

    @property
    def stderr(self) -> str:
        return self.err.read_text()

    def ranks(self) -> dict[int, psutil.Process]:
        """Return the living ranks by number."""
        ranks: dict[int, psutil.Process] = {}
        with suppress(psutil.NoSuchProcess):
            for child in psutil.Process(self.process.pid).children():
                with suppress(psutil.NoSuchProcess):
                    number = child.environ().get("RANK")
                    if number and is_alive(child):
                        ranks[int(number)] = child
        return ranks

    def at(self, step: int) -> None:
        """Wait until a checkpoint of this step or a later one is saved."""
        until(lambda: newest(self.folder) >= step or self.has_ended(), f"step {step}")
        assert not self.has_ended(), self.stderr

    def has_ended(self) -> bool:
        return self.process.poll() is not None

    def kill(self, rank: int) -> float:
        """Kill a rank, and return the seconds until the training has resumed."""
        n_before = self.stdout.count("resumed from step")
        started = time.monotonic()
        self.ranks()[rank].kill()
        until(
            lambda: self.stdout.count("resumed from step") > n_before or self.has_ended(),
            "resumed",
        )
        assert not self.has_ended(), self.stderr
        return time.monotonic() - started

    def end(self, number: signal.Signals | None = None) -> tuple[int, float]:
        """Signal the launcher, if that is wanted; return its exit code and the seconds to it."""
        started = time.monotonic()
        if number:
            self.process.send_signal(number)
        code = self.process.wait(180)
        return code, time.monotonic() - started

    def __enter__(self) -> "Launched":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()


def is_alive(process: psutil.Process) -> bool:
    with suppress(psutil.NoSuchProcess):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


def newest(folder: Path) -> int:
    """Return the step of the newest checkpoint, 0 if there is none."""
    paths = folder.glob(".retrace/checkpoints/*/*.safetensors")
    return max((int(path.name.partition("-")[0]) for path in paths), default=0)


def results(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in RESULTS}


def copied(prepared: Path, folder: Path) -> Path:
    shutil.copytree(prepared, folder)
    return folder


def unused_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
