"""`retrace predict`: what a model says of pictures, with its probabilities."""

import json
import sys
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from retrace import paths, prediction
from retrace.datasets.image_folder import shown
from retrace.errors import RetraceError
from retrace.prediction import Device, Predictor, Told
from retrace.provenance import models
from retrace.tracking import served, store


def predict(
    model: str, images: Sequence[str], here: Path, *, top: int, invert: bool, device: Device, as_json: bool
) -> int:
    """Print a line a picture, or a JSON document; 0 if each could be read, else 1, with the others' reasons on stderr.

    Paths are relative to `here`, and shown as they are given. Raises RetraceError where there is no such model.
    """
    if top < 1:
        raise RetraceError(f"--top is {top}; should be 1 or more")
    prediction.check(device)
    with warnings.catch_warnings(action="ignore"):  # of odd metadata, and of MLflow's own code
        predictor = found(model, here, device)
        files = (Path(file) for file in prediction.pictures(here / image for image in images))
        told = prediction.told(predictor, files, invert=invert)
        n, failed = (_print_json if as_json else _print_lines)(model, predictor, told, here, top)
    for one in failed:
        print(f"{_name(one.path, here)}: {shown(one.reason)}", file=sys.stderr)
    if failed:
        print(f"{len(failed):,} of {n + len(failed):,} can't be read", file=sys.stderr)
    return 1 if failed else 0


def found(model: str, here: Path, device: Device) -> Predictor:
    """The model that `model` names: a file or folder, a run, or an entry of MLflow's registry. Raises DataError where
    the files are none, and RetraceError where MLflow has none, or does not answer.
    """
    path = here / model
    if not model.startswith(models.SCHEME) and path.exists():
        weights = path / paths.WEIGHTS.name if path.is_dir() else path
        return prediction.of_files(weights, weights.with_suffix(".json"), device)
    with store.answering():
        return served.load(models.resolve_model(model).model_id, device)


def _print_lines(_: str, predictor: Predictor, told: Iterable[Told], here: Path, top: int) -> tuple[int, list[Told]]:
    """How many could be read, and those that could not."""
    n, failed = 0, list[Told]()
    for one in told:
        if one.probabilities is None:
            failed.append(one)
            continue
        n += 1
        best = np.argsort(-one.probabilities, kind="stable")[:top]
        pairs = (f"{shown(predictor.class_names[i])}  {one.probabilities[i]:.4f}" for i in best)
        print(_name(one.path, here), *pairs, sep="  ")
    return n, failed


def _print_json(name: str, predictor: Predictor, told: Iterable[Told], here: Path, _: int) -> tuple[int, list[Told]]:
    """The same, as one document that is written while it is made: a folder's may be long."""
    n, failed = 0, list[Told]()
    print(f'{{"model": {json.dumps(name)}, "predictions": [', end="")
    for one in told:
        if one.probabilities is None:
            failed.append(one)
            continue
        best = int(one.probabilities.argmax())
        given = {name: float(value) for name, value in zip(predictor.class_names, one.probabilities, strict=True)}
        said: dict[str, Any] = {"path": _relative(one.path, here), "label": predictor.class_names[best]}
        said |= {"probability": float(one.probabilities[best]), "probabilities": given}
        print("," if n else "", json.dumps(said), sep="\n", end="")
        n += 1
    lost = [{"path": _relative(one.path, here), "reason": one.reason} for one in failed]
    print(f'\n], "failed": {json.dumps(lost)}}}')
    return n, failed


def _name(path: Path, here: Path) -> str:
    return shown(_relative(path, here))


def _relative(path: Path, here: Path) -> str:
    """As it was typed, for the working directory is another by now."""
    return str(path.relative_to(here) if path.is_relative_to(here) else path)
