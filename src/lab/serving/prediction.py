"""Classify image files of any size with a trained network."""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch

from lab.data import decoding, file_tree
from lab.evaluation import inference
from lab.models import classifier
from retrace.errors import DataError, ParamsError

Device = Literal["cpu", "cuda"]


@dataclass(frozen=True)
class Predictor:
    """A trained network in float32, from files or from MLflow."""

    shape: tuple[int, ...]  # of an input, without the batch
    class_names: tuple[str, ...]
    resize: int | None  # the model config's
    probabilities: Callable[[np.ndarray], np.ndarray]  # raw inputs (n, *shape) to (n, classes)


class Prediction(NamedTuple):
    """The probabilities of an image, by class, or the reason why it can't be read."""

    path: Path
    probabilities: np.ndarray | None
    reason: str = ""


def check(device: Device) -> None:
    """Raise ParamsError if the device is not available."""
    if device == "cuda" and not torch.cuda.is_available():
        raise ParamsError("--device is 'cuda', but torch sees no GPU here; use cpu")


def from_files(weights: Path, config_file: Path, device: Device) -> Predictor:
    """Load the network in these files. Raises DataError if they are not a model."""
    model, config = classifier.load(weights, config_file)
    served = classifier.Served(model.to(device)).eval()

    def probabilities(inputs: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return served(torch.from_numpy(inputs).to(device)).cpu().numpy()

    return Predictor(config.shape, config.class_names, config.resize, probabilities)


def image_files(paths: Iterable[Path]) -> Iterator[Path]:
    """Yield each file; for a folder its images, sorted, or itself if it has none."""
    for path in paths:
        if not path.is_dir():
            yield path
            continue
        files = file_tree.files_below(path)
        images = (file for file in files if file.suffix.lower() in file_tree.IMAGE_SUFFIXES)
        yield next(images, path)
        yield from images


def predictions(
    predictor: Predictor, files: Iterable[Path], *, invert: bool
) -> Iterator[Prediction]:
    """Classify each file, in order, with as many in memory as in a batch of `evaluate`.

    `invert` classifies their negatives. Raises DataError if the network does not take images.
    """
    shape = predictor.shape
    if len(shape) != 3 or shape[1] != shape[2]:
        raise DataError(f"the model takes {shape} numbers, not images; predict is for images")
    batch_size = max(1, min(inference.BATCH["cpu"], inference.BATCH_NUMBERS // math.prod(shape)))
    files = iter(files)
    while batch := list(islice(files, batch_size)):
        inputs = [_read(file, predictor) for file in batch]
        pixels = [image for image in inputs if isinstance(image, np.ndarray)]
        rows = iter(_probabilities(predictor, pixels, invert=invert))
        for file, image in zip(batch, inputs, strict=True):
            if isinstance(image, str):
                yield Prediction(file, None, image)
            else:
                yield Prediction(file, next(rows))


def _probabilities(predictor: Predictor, images: list[np.ndarray], *, invert: bool) -> np.ndarray:
    if not images:
        return np.empty((0, len(predictor.class_names)))
    batch = np.stack(images)
    return predictor.probabilities(255 - batch if invert else batch)


def _read(file: Path, predictor: Predictor) -> np.ndarray | str:
    """Return the image as the network's input, or the reason why it can't be read."""
    if file.is_dir():
        return f"no image in it ({', '.join(file_tree.IMAGE_SUFFIXES)})"
    try:
        size = predictor.resize or predictor.shape[1]
        return decoding.pixels(decoding.content(file), predictor.shape, size)
    except DataError as error:
        return str(error)
