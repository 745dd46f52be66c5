"""Export a network to a folder that runs without this repository, and check it there."""

import json
import os
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from safetensors.torch import save_file

from lab import paths
from lab.data import batches, storage
from lab.evaluation import inference
from lab.models import classifier
from lab.models.classifier import Classifier, ModelConfig
from lab.serving import definition, example
from lab.serving.formats import FORMATS, Format
from lab.serving.package import PT2
from retrace.errors import DataError, RetraceError
from retrace.pipeline import hashing

if TYPE_CHECKING:
    from retrace.store.models import LoggedModel

N_CHECKED = 100  # samples
TOLERANCE = 1e-4  # of a logit, or relative to the largest one if that is above 1
CONFIG = "model.json"


@dataclass(frozen=True)
class Source:
    """A trained network, and the MLflow run that made it, if it is from one."""

    model: Classifier
    config: ModelConfig
    run: str | None


@dataclass(frozen=True)
class Checked:
    """The largest difference of a logit, and whether it is small enough."""

    samples: str
    difference: float
    is_equal: bool


def from_files(weights: Path, config_file: Path) -> Source:
    """Load the network in these files. Raises DataError if they are not a model."""
    return Source(*classifier.load(weights, config_file), None)


def from_mlflow(logged: "LoggedModel") -> Source:
    """Load the network of a model in MLflow, with the code that is here.

    Its weights are in the pt2 program, its config among the run's artifacts. Raises DataError if
    the model is not one of this pipeline, or the code does not fit it.
    """
    from mlflow import artifacts

    run = logged.source_run_id
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = artifacts.download_artifacts(
            artifact_uri=f"models:/{logged.model_id}", dst_path=name
        )
        file = Path(path, PT2)
        if not file.exists():
            raise DataError(
                f"model {logged.model_id}: was not created by this pipeline; `retrace ui` shows it"
            )
        program = torch.export.load(file)
        weights = {
            name.removeprefix("model."): tensor.contiguous()
            for name, tensor in program.state_dict.items()
        }
        save_file(weights, folder / paths.WEIGHTS.name)
        config = artifacts.download_artifacts(
            run_id=run, artifact_path=str(paths.MODEL_CONFIG), dst_path=name
        )
        return Source(*classifier.load(folder / paths.WEIGHTS.name, Path(config)), run)


def export(source: Source, kind: str, folder: Path, *, force: bool) -> Checked:
    """Write the network as `kind` to `folder`, if it then computes the same logits.

    Raises RetraceError if the folder exists, unless it is an export and `force` is given, and
    DataError if the network has no such format.
    """
    refuse_other(folder, force=force)
    chosen = FORMATS[kind]
    inputs, samples = _samples(source.config)
    with torch.no_grad():
        expected = np.concatenate([source.model(torch.from_numpy(x)).numpy() for x in inputs])
    with _put_in_place(folder) as unfinished:
        with warnings.catch_warnings(action="ignore"):  # from exporters, about their own code
            _write(chosen, source, unfinished)
            run = chosen.open(unfinished)
        logits = np.concatenate([run(x) for x in inputs])
        difference = float(np.abs(logits - expected).max())
        limit = TOLERANCE * max(1.0, float(np.abs(expected).max()))
        checked = Checked(samples, difference, difference <= limit)
        _describe(chosen, source, checked, unfinished)
        if not checked.is_equal:
            shutil.rmtree(unfinished)
    return checked


def refuse_other(folder: Path, *, force: bool) -> None:
    """Raise RetraceError if there is something that should not be overwritten."""
    if not folder.exists() and not folder.is_symlink():
        return
    if not (folder / CONFIG).is_file() or not (folder / "example.py").is_file():
        raise RetraceError(f"--to is {str(folder)!r}, which is not an export; name a new folder")
    if not force:
        raise RetraceError(f"--to is {str(folder)!r}, which exists; --force replaces it")


def _write(kind: Format, source: Source, folder: Path) -> None:
    """Write the model's file. Raises DataError if the network can't be exported."""
    try:
        kind.write(source.model, source.config, folder)
    except (RetraceError, MemoryError, OSError):
        raise
    except Exception as error:  # noqa: BLE001 - exporters raise errors of any type
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise DataError(
            f"--format: {source.config.model} can't be exported as {kind.file}: {reason}"
        ) from None


def _describe(kind: Format, source: Source, checked: Checked, folder: Path) -> None:
    """Write model.json, the example and the README."""
    config = source.config
    library = definition.library(source.model) if kind.file == "model.safetensors" else ""
    packages = f"{kind.packages} {library}".strip()
    described = {
        "file": kind.file,
        "sha256": hashing.sha256(folder / kind.file),
        "run": source.run,
        "model": config.model,
        "settings": config.settings,
        "class_names": config.class_names,
        "shape": config.shape,
        "resize": config.resize or config.shape[-1] if len(config.shape) == 3 else None,
        "mean": config.mean,
        "std": config.std,
        "checked": checked.samples,
        "largest_difference": checked.difference,
    }
    text = json.dumps(described, indent=2, ensure_ascii=False) + "\n"
    (folder / CONFIG).write_text(text, encoding="utf-8")
    (folder / "example.py").write_text(example.example(kind, config), encoding="utf-8")
    readme = example.readme(
        kind, config, packages, checked=checked.samples, difference=checked.difference
    )
    (folder / "README.md").write_text(readme, encoding="utf-8")


def _samples(config: ModelConfig) -> tuple[list[np.ndarray], str]:
    """Return inputs in batches of several sizes, and what they are: test samples, if they fit."""
    inputs = _test_inputs(config)
    samples = f"{N_CHECKED} random inputs"
    if inputs is not None:
        samples = f"{len(inputs)} test samples"
    elif len(config.shape) == 3:
        rng = np.random.default_rng(0)
        inputs = rng.integers(0, 256, (N_CHECKED, *config.shape), dtype=np.uint8)
    else:
        rng = np.random.default_rng(0)
        inputs = rng.normal(config.mean, config.std, (N_CHECKED, *config.shape))
        inputs = inputs.astype(np.float32)
    size = min(inference.batch_size(torch.from_numpy(inputs)), 40)
    return [inputs[first : first + size] for first in range(0, len(inputs), size)], samples


def _test_inputs(config: ModelConfig) -> np.ndarray | None:
    """Return the first test samples; None if there are none of the model's classes and shape."""
    try:
        samples, _ = storage.load(paths.TEST)
    except DataError:
        return None
    inputs = torch.from_numpy(np.array(samples.inputs[:N_CHECKED]))
    if samples.class_names != config.class_names or inputs.ndim != len(config.shape) + 1:
        return None
    if samples.are_images and min(inputs.shape[2:]) >= max(config.shape[1:]):
        inputs = batches.center(inputs, config.shape[1:])  # what the network sees
    return inputs.contiguous().numpy() if tuple(inputs.shape[1:]) == config.shape else None


@contextmanager
def _put_in_place(folder: Path) -> Iterator[Path]:
    """Yield a new folder that replaces `folder` after the block, unless the block removes it."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    unfinished = folder.with_name(f".{folder.name}.{os.getpid()}")
    before = folder.with_name(f".{folder.name}.{os.getpid()}.before")
    unfinished.mkdir()
    try:
        yield unfinished
        if not unfinished.exists():
            return
        for file in unfinished.iterdir():
            with file.open("rb") as stream:
                os.fsync(stream.fileno())
        if folder.exists():
            folder.replace(before)
        unfinished.replace(folder)
    finally:
        if before.exists() and not folder.exists():  # interrupted between the two
            before.replace(folder)
        for left in (unfinished, before):
            shutil.rmtree(left, ignore_errors=True)
