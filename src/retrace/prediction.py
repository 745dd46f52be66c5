"""What a trained network says of pictures: files of any size in, a probability a class out."""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch

from retrace import classifier, decoding, evaluation
from retrace.datasets import image_folder
from retrace.errors import DataError, ParamsError

Device = Literal["cpu", "cuda"]


@dataclass(frozen=True)
class Predictor:
    """A trained network, wherever it comes from, in float32. `probabilities` makes raw inputs, of shape (n, *shape),
    into (n, classes); `resize` is as a card has it.
    """

    shape: tuple[int, ...]
    class_names: tuple[str, ...]
    resize: int | None
    probabilities: Callable[[np.ndarray], np.ndarray]


class Told(NamedTuple):
    """What was told of a picture: a probability a class, or else the reason why it can't be read."""

    path: Path
    probabilities: np.ndarray | None
    reason: str = ""


def check(device: Device) -> None:
    """Raises ParamsError where the device is not there."""
    if device == "cuda" and not torch.cuda.is_available():
        raise ParamsError("--device is 'cuda', but torch sees no GPU here; use cpu")


def of_files(weights: Path, card: Path, device: Device) -> Predictor:
    """The network in these files. Raises DataError where they are none."""
    model, said = classifier.load(weights, card)
    served = classifier.Served(model.to(device)).eval()

    def probabilities(inputs: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return served(torch.from_numpy(inputs).to(device)).cpu().numpy()

    return Predictor(said.shape, said.class_names, said.resize, probabilities)


def pictures(given: Iterable[Path]) -> Iterator[Path]:
    """The files that are named, and of folders all images below, sorted; of one without any the folder itself."""
    for path in given:
        if not path.is_dir():
            yield path
            continue
        images = (file for file in image_folder.files_below(path) if file.suffix.lower() in image_folder.SUFFIXES)
        yield next(images, path)
        yield from images


def told(predictor: Predictor, files: Iterable[Path], *, invert: bool) -> Iterator[Told]:
    """What the network says of each file, in their order; as many are in memory as `evaluate` has. `invert` makes
    negatives of them. Raises DataError where the network takes no pictures.
    """
    if len(predictor.shape) != 3 or predictor.shape[1] != predictor.shape[2]:
        raise DataError(f"the model takes {predictor.shape} numbers, not pictures; predict is for those")
    at_once = max(1, min(evaluation.BATCH["cpu"], evaluation.BATCH_NUMBERS // math.prod(predictor.shape)))
    files = iter(files)
    while some := list(islice(files, at_once)):
        read = [_read(file, predictor) for file in some]
        inputs = [pixels for pixels in read if isinstance(pixels, np.ndarray)]
        batch = np.stack(inputs) if inputs else None
        rows = iter(() if batch is None else predictor.probabilities(255 - batch if invert else batch))
        for file, pixels in zip(some, read, strict=True):
            yield Told(file, None, pixels) if isinstance(pixels, str) else Told(file, next(rows))


def _read(file: Path, predictor: Predictor) -> np.ndarray | str:
    """The input that a picture is, or why it is none."""
    if file.is_dir():
        return f"no image in it ({', '.join(image_folder.SUFFIXES)})"
    try:
        return decoding.pixels(decoding.content(file), predictor.shape, predictor.resize or predictor.shape[1])
    except DataError as error:
        return str(error)
