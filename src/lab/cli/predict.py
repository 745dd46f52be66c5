"""`retrace predict`: classify images with a trained model, on the CPU in float32."""

from __future__ import annotations

import json
import sys
import warnings
from argparse import ArgumentParser, Namespace
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lab import paths
from retrace.cli import arguments
from retrace.errors import RetraceError

if TYPE_CHECKING:
    from lab.serving.prediction import Device, Prediction, Predictor

GROUP = "use"
SUMMARY = "classify images with a trained model, on the CPU in float32"
EXAMPLES = (
    "retrace predict models photo.png           the model that was trained here",
    "retrace predict 4f0c2d photo.png --top 3   a run's model, three classes",
    "retrace predict models:/mnist@champion scans   all images in a folder",
    "retrace predict models photo.png --invert  dark ink on white paper",
)


def add_arguments(parser: ArgumentParser) -> None:
    arguments.add_json(parser)
    text = "models/model.safetensors, a folder with it and model.json, a run's id, or "
    text += "models:/name@alias"
    parser.add_argument("model", metavar="MODEL", help=text)
    text = "image file (PNG, JPEG, WEBP, BMP, TIFF, AVIF) of any size, resized and center-cropped "
    text += "like data/images; or a folder of them"
    parser.add_argument("images", nargs="+", metavar="IMAGE", help=text)
    text = "number of classes per image, most likely first (default: %(default)s)"
    parser.add_argument("--top", type=int, default=1, metavar="N", help=text)
    text = "classify the negatives of the images"
    parser.add_argument("--invert", action="store_true", help=text)
    text = "device to run on, independent of params.yaml (default: %(default)s)"
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help=text)


def run(args: Namespace) -> int:
    options = {"top": args.top, "invert": args.invert, "device": args.device}
    return predict(args.model, args.images, args.here, **options, as_json=args.json)


def predict(
    model: str,
    images: Sequence[str],
    here: Path,
    *,
    top: int,
    invert: bool,
    device: Device,
    as_json: bool,
) -> int:
    """Print a line for each image, or a JSON document; return 1 if an image could not be read.

    The reasons are on stderr. Paths are relative to `here`, and printed as they were typed. Raises
    RetraceError if there is no such model.
    """
    from lab.serving import prediction

    if top < 1:
        raise RetraceError(f"--top is {top}; should be 1 or more")
    prediction.check(device)
    with warnings.catch_warnings(action="ignore"):  # about odd metadata, and from MLflow's own code
        predictor = load(model, here, device)
        files = prediction.image_files(here / image for image in images)
        results = prediction.predictions(predictor, files, invert=invert)
        if as_json:
            n, failed = _print_document(model, predictor, results, here)
        else:
            n, failed = _print_lines(predictor, results, here, top)
    for result in failed:
        print(f"{_name(result.path, here)}: {_printable(result.reason)}", file=sys.stderr)
    if failed:
        print(f"{len(failed):,} of {n + len(failed):,} can't be read", file=sys.stderr)
    return 1 if failed else 0


def load(model: str, here: Path, device: Device) -> Predictor:
    """Load the model of a file or folder, a run, or an entry of MLflow's registry.

    Raises DataError if the files are not a model, and RetraceError if MLflow does not have it or
    does not answer.
    """
    from lab.serving import package, prediction
    from retrace.provenance import models
    from retrace.store import backend

    path = here / model
    if not model.startswith(models.SCHEME) and path.exists():
        weights = path / paths.WEIGHTS.name if path.is_dir() else path
        return prediction.from_files(weights, weights.with_suffix(".json"), device)
    with backend.mlflow_errors():
        return package.load(models.resolve_model(model).model_id, device)


def _print_lines(
    predictor: Predictor, results: Iterable[Prediction], here: Path, top: int
) -> tuple[int, list[Prediction]]:
    """Print a line for each image; return how many could be read, and those that could not."""
    n = 0
    failed: list[Prediction] = []
    for result in results:
        if result.probabilities is None:
            failed.append(result)
            continue
        n += 1
        best = (-result.probabilities).argsort(kind="stable")[:top]
        pairs = (
            f"{_printable(predictor.class_names[i])}  {result.probabilities[i]:.4f}" for i in best
        )
        print(_name(result.path, here), *pairs, sep="  ")
    return n, failed


def _print_document(
    model: str, predictor: Predictor, results: Iterable[Prediction], here: Path
) -> tuple[int, list[Prediction]]:
    """Print the same as JSON, one image at a time: a folder may have many."""
    n = 0
    failed: list[Prediction] = []
    names = predictor.class_names
    print(f'{{"model": {json.dumps(model)}, "predictions": [', end="")
    for result in results:
        if result.probabilities is None:
            failed.append(result)
            continue
        best = int(result.probabilities.argmax())
        probabilities = dict(zip(names, map(float, result.probabilities), strict=True))
        entry: dict[str, Any] = {"path": _relative(result.path, here), "label": names[best]}
        entry |= {"probability": probabilities[names[best]], "probabilities": probabilities}
        print("," if n else "", json.dumps(entry), sep="\n", end="")
        n += 1
    unread = [{"path": _relative(result.path, here), "reason": result.reason} for result in failed]
    print(f'\n], "failed": {json.dumps(unread)}}}')
    return n, failed


def _name(path: Path, here: Path) -> str:
    return _printable(_relative(path, here))


def _printable(text: str) -> str:
    from lab.data import unusable

    return unusable.printable(text)


def _relative(path: Path, here: Path) -> str:
    """Return a path as it was typed: the working directory has changed since then."""
    return str(path.relative_to(here) if path.is_relative_to(here) else path)
