"""What tests share: the repository's own parameters made small, samples to train on, a clone to run DVC in."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TypeVar

import numpy as np
import pytest
import torch

from retrace import params, paths
from retrace.samples import Samples

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent

torch.set_num_threads(1)  # two workers share two cores


@pytest.fixture(autouse=True)
def _whole_floats() -> None:
    """`seeding.settle` flushes subnormal numbers to zero, for good; hypothesis refuses to work then."""
    torch.set_flush_denormal(False)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to run in, with the repository's params.yaml and dvc.yaml, outside DVC and any experiment."""
    for name in (paths.PARAMS, paths.GRAPH):
        shutil.copy(ROOT / name, tmp_path)
    for name in [name for name in os.environ if name.startswith(("DVC_", "MLFLOW_", "RETRACE_"))]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def values() -> params.Values:
    """The values of the repository's params.yaml."""
    return params.read(ROOT / paths.PARAMS)


@pytest.fixture
def beside(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a stage's follower does, done at the stage's end in this process: another one imports MLflow for seconds."""
    from retrace.tracking import follower

    class Here(follower.Follower):
        def _waited(self) -> str | None:
            said: list[str] = []
            follower.follow(self.path, os.getpid(), lambda _: True, lambda **word: said.append(word.get("lacking", "")))
            return said[-1]

        process = property(lambda _: None, lambda *_: None)

    monkeypatch.setattr(follower, "start", lambda path: Here(path, None))


Stage = TypeVar("Stage", bound=params.Strict)


def typed(stage: type[Stage], **changed: object) -> Stage:
    """The parameters of a stage as the repository has them, but for what is `changed`."""
    experiment = params.checked(params.read(ROOT / paths.PARAMS) | changed)
    return stage.model_construct(**{name: getattr(experiment, name) for name in stage.model_fields})


@pytest.fixture(scope="session")
def stripes() -> Samples:
    """300 noisy 8x8 images of three classes, told apart by where a bright stripe is."""
    rng = np.random.default_rng(0)
    labels = np.arange(300) % 3
    images = rng.integers(0, 100, (300, 1, 8, 8), dtype=np.uint8)
    images[np.arange(300), 0, labels * 2 + 1] += 100
    return Samples(images, labels, ("top", "middle", "bottom"))


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated MLflow database without a run: making one takes seconds, copying it none."""
    import mlflow

    database = tmp_path_factory.mktemp("store") / "mlflow.db"
    mlflow.MlflowClient(f"sqlite:///{database}").search_experiments()
    return database


def environment(cache: Path) -> dict[str, str]:
    """This process's environment with our programs first and nothing that could reach a user's own stores."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("DVC_", "MLFLOW_", "RETRACE_", "PYTHONPATH"))}
    return kept | {
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
        "RETRACE_CACHE": str(cache / "downloads"),
        "DVC_SITE_CACHE_DIR": str(cache / "dvc"),
        "GIT_CONFIG_GLOBAL": os.devnull,
    }


class Clone:
    """A repository of the working tree's files, with one commit, to run commands in."""

    def __init__(self, path: Path, cache: Path, edits: dict[str, str]) -> None:
        self.path, self.env = path, environment(cache)
        listed = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        )
        for name in filter(None, listed.stdout.split("\0")):
            if (ROOT / name).is_file():
                (path / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / name, path / name)
        edited = (path / paths.PARAMS).read_text()
        for old, new in edits.items():
            assert edited.count(f"\n{old}") == 1, old
            edited = edited.replace(f"\n{old}", f"\n{new}")
        (path / paths.PARAMS).write_text(edited)
        self.run("git", "init", "--quiet")
        self.commit("start")

    def run(self, *command: str, code: int = 0, **env: str) -> str:
        """What `command` printed, after it ended with `code`."""
        ended = subprocess.run(
            command, cwd=self.path, env=self.env | env, capture_output=True, text=True, check=False, timeout=300
        )
        output = ended.stdout + ended.stderr
        assert ended.returncode == code, output
        return output

    def type(self, command: str, code: int = 0) -> str:
        """What is printed where a user types `command` at the shell's prompt."""
        return self.run("bash", "-c", command, code=code)

    def commit(self, message: str) -> None:
        self.run("git", "add", "--all")
        who = ("-c", "user.name=test", "-c", "user.email=test@localhost")
        self.run("git", *who, "commit", "--quiet", "--allow-empty", "--message", message)
