"""Identify an experiment and a stage's inputs by hashes; DVC's name for the running experiment."""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from retrace.pipeline import hashing

VERSION = 2  # runs of version 1 keep their keys

# Version 1, of runs before December 2026: these files of the lab, and its images if it uses them.
CODE_1 = ("src/**/*.py", "stages/*.py", "dvc.yaml")
IMAGES_1 = "data/images"
DATASET_1 = ("dataset", "image_folder")


def key(
    commands: Mapping[str, Sequence[str]],
    params: Mapping[str, Any],
    files: Mapping[str, str | None],
) -> str:
    """Return an experiment's identity, 32 hexadecimal digits.

    Two experiments have the same one if and only if all stages have the same `commands` and
    `params`, and all `files` that no stage makes have the same hashes: then DVC takes them for the
    same.
    """
    return _digest([VERSION, dict(commands), dict(params), dict(files)])


def inputs(
    stage: str, commands: Sequence[str], params: Mapping[str, Any], deps: Mapping[str, str]
) -> str:
    """Return a hash of everything that determines a stage's outputs, 32 hexadecimal digits."""
    return _digest([stage, list(commands), dict(params), dict(deps)])


def key_1(values: Mapping[str, Any], folder: Path) -> str:
    """Return the identity by version 1, which runs before December 2026 have."""
    digest = hashlib.sha256(json.dumps(values, sort_keys=True, default=str).encode())
    for file in sorted(file for pattern in CODE_1 for file in folder.glob(pattern)):
        digest.update(f"\0{file.relative_to(folder)}\0".encode() + file.read_bytes())
    images = folder / IMAGES_1
    name, with_images = DATASET_1
    if values.get(name) == with_images and images.exists():
        digest.update(hashing.md5(images).encode())
    return digest.hexdigest()[:32]


def dvc_experiment() -> dict[str, str]:
    """Return DVC's name for the running experiment and its baseline commit, as tags.

    The mapping is empty outside `dvc exp run`.
    """
    names = {"dvc.exp_name": "DVC_EXP_NAME", "dvc.baseline_rev": "DVC_EXP_BASELINE_REV"}
    return {tag: os.environ[name] for tag, name in names.items() if os.environ.get(name)}


def _digest(parts: Any) -> str:
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:32]
