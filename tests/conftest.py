"""Fixtures that tests share: parameters, samples, an empty folder, an empty store."""

import os
import shutil
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, TypeVar

import numpy as np
import pytest
import torch
from repository import ROOT

from lab import params, paths
from lab.data.samples import Samples
from lab.models.classifier import ModelConfig
from retrace.pipeline import params_yaml
from retrace.system import machine

if TYPE_CHECKING:
    from mlflow import MlflowClient

torch.set_num_threads(1)  # two workers share two cores
for number, handler in (
    (signal.SIGINT, signal.default_int_handler),
    (signal.SIGHUP, signal.SIG_DFL),
):
    # In a shell's background and below nohup they are ignored, also by what is started here.
    signal.signal(number, handler)


@pytest.fixture(autouse=True)
def _whole_floats() -> None:
    """Undo `device.configure`, which flushes subnormal numbers to zero: hypothesis refuses that."""
    torch.set_flush_denormal(False)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Enter an empty folder with the repository's params.yaml and dvc.yaml, outside DVC."""
    enter(tmp_path, monkeypatch)
    return tmp_path


def enter(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Copy params.yaml and dvc.yaml to a folder and enter it, without DVC's and our variables."""
    for name in (paths.PARAMS, paths.GRAPH, "pyproject.toml"):
        shutil.copy(ROOT / name, folder)
    for name in [name for name in os.environ if name.startswith(("DVC_", "MLFLOW_", "RETRACE_"))]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(folder)


@pytest.fixture
def nameless(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the user one without an entry in /etc/passwd, as in a container."""

    def unknown(number: int) -> NoReturn:
        raise KeyError(number)

    monkeypatch.setattr("pwd.getpwuid", unknown)
    for name in (*machine.NAMING, "HOME"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def values() -> params_yaml.Values:
    """Return the values of the repository's params.yaml."""
    return params_yaml.read(ROOT / paths.PARAMS)


@pytest.fixture
def beside(monkeypatch: pytest.MonkeyPatch) -> None:
    """Upload in this process when a stage ends: another one imports MLflow for seconds."""
    follow_here(monkeypatch)


def follow_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Upload in this process, for fixtures that outlive a test."""
    from retrace.tracking import uploader, uploader_client

    class Link(uploader.Link):
        def __init__(self) -> None:
            self.over = threading.Event()
            self.over.set()
            self.lacking: str | None = None

        def send(self, **message: float | str) -> bool:
            self.lacking = str(message["lacking"]) if "lacking" in message else self.lacking
            return True

    class Here(uploader_client.Uploader):
        def __init__(self, path: Path, *, has_successor: bool) -> None:
            del has_successor
            self.path = path

        def _lacking(self) -> str | None:
            link = Link()
            uploader.mirror(self.path, link)
            return link.lacking

    monkeypatch.setattr(uploader_client, "Uploader", Here)


@pytest.fixture
def config_of(values: params_yaml.Values) -> Callable[[str, int], ModelConfig]:
    """Return a function for the config of a model: grey images of a size, two classes."""

    def config(model: str, side: int) -> ModelConfig:
        return ModelConfig(
            model=model,
            settings=values["models"][model],
            shape=(1, side, side),
            class_names=("a", "b"),
            mean=(33.0,),
            std=(78.0,),
            pretrained=None,
            epoch=1,
        )

    return config


Stage = TypeVar("Stage", bound=params.Strict)


def typed(stage: type[Stage], **changed: object) -> Stage:
    """Return the parameters of a stage as in the repository, except those `changed`."""
    experiment = params.checked(params_yaml.read(ROOT / paths.PARAMS) | changed)
    return stage.model_construct(**{name: getattr(experiment, name) for name in stage.model_fields})


def striped() -> Samples:
    """Return 300 noisy 8x8 images of three classes, which differ in where a bright stripe is."""
    rng = np.random.default_rng(0)
    labels = np.arange(300) % 3
    images = rng.integers(0, 100, (300, 1, 8, 8), dtype=np.uint8)
    images[np.arange(300), 0, labels * 2 + 1] += 100
    return Samples(images, labels, ("top", "middle", "bottom"))


@pytest.fixture(scope="session")
def stripes() -> Samples:
    return striped()


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Create an MLflow database without a run, to be copied: creating one takes seconds."""
    import mlflow

    database = tmp_path_factory.mktemp("store") / "mlflow.db"
    mlflow.MlflowClient(f"sqlite:///{database}").search_experiments()
    return database


@pytest.fixture
def store(folder: Path, empty_store: Path) -> "MlflowClient":
    """Return a client of the store of `folder`."""
    import mlflow

    shutil.copy(empty_store, folder / "mlflow.db")
    return mlflow.MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
