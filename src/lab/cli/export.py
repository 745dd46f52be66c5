"""`retrace export`: write a trained model to a folder that runs without this repository."""

from __future__ import annotations

import sys
import warnings
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from lab import paths

if TYPE_CHECKING:
    from lab.serving.export import Source

GROUP = "use"
SUMMARY = (
    "write a model as ONNX, pt2 or safetensors: a folder with an example that needs none of this "
    "code"
)
EXAMPLES = (
    "retrace export models --format onnx         the model that was trained here",
    "retrace export 4f0c2d --format pt2          a run's model",
    "retrace export models:/mnist@champion --format safetensors --to champion",
)
FORMATS = ("onnx", "pt2", "safetensors")


def add_arguments(parser: ArgumentParser) -> None:
    text = "models/model.safetensors, a folder with it and model.json, a run's id, or "
    text += "models:/name@alias"
    parser.add_argument("model", metavar="MODEL", help=text)
    text = "onnx (ONNX Runtime), pt2 (torch.export), or safetensors (weights, and the network as a "
    text += "Python file)"
    parser.add_argument("--format", choices=FORMATS, required=True, metavar="FORMAT", help=text)
    text = "new folder (default: export-FORMAT)"
    parser.add_argument("--to", metavar="FOLDER", help=text)
    parser.add_argument("--force", action="store_true", help="replace an earlier export there")


def run(args: Namespace) -> int:
    return export(
        args.model, args.format, args.to or f"export-{args.format}", args.here, force=args.force
    )


def export(model: str, kind: str, to: str, here: Path, *, force: bool) -> int:
    """Export the model, and print how far its logits are from the network's; 1 if too far.

    Paths are relative to `here`. Raises RetraceError if there is no such model, or the folder
    should not be overwritten.
    """
    from lab.serving import export as serving

    serving.refuse_other(here / to, force=force)
    with warnings.catch_warnings(action="ignore"):  # from MLflow's own code
        source = load(model, here)
    checked = serving.export(source, kind, here / to, force=force)
    difference = f"{checked.difference:.1e} at most, on {checked.samples}"
    if not checked.is_equal:
        print(
            f"not exported: its logits differ from the network's by {difference}", file=sys.stderr
        )
        return 1
    print(f"{to}: its logits differ from the network's by {difference}")
    return 0


def load(model: str, here: Path) -> Source:
    """Load the model of a file or folder, a run, or an entry of MLflow's registry.

    Raises DataError if the files are not a model, and RetraceError if MLflow does not have it or
    does not answer.
    """
    from lab.serving import export as serving
    from retrace.provenance import models
    from retrace.store import backend

    path = here / model
    if not model.startswith(models.SCHEME) and path.exists():
        weights = path / paths.WEIGHTS.name if path.is_dir() else path
        return serving.from_files(weights, weights.with_suffix(".json"))
    with backend.mlflow_errors(), backend.as_default_store():
        return serving.from_mlflow(models.resolve_model(model))
