"""Identify an experiment: hashes of its parameters, code and inputs, and DVC's name for it."""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from retrace import settings
from retrace.pipeline import hashing

CODE = ("src/**/*.py", "stages/*.py", "dvc.yaml")


def key(values: Mapping[str, Any], folder: Path = Path(), images: str | None = None) -> str:
    """Return the experiment's identity, 32 hexadecimal digits.

    Two experiments have the same key if and only if their parameters and code are equal, and, for
    the data set image_folder, their images. `folder` is the repository. `images` is the hash of
    data/images, if it is known.
    """
    digest = hashlib.sha256(json.dumps(values, sort_keys=True, default=str).encode())
    for file in code(folder):
        digest.update(f"\0{file}\0".encode() + (folder / file).read_bytes())
    if values["dataset"] == "image_folder" and (images or (folder / settings.IMAGES).exists()):
        digest.update((images or hashing.md5(folder / settings.IMAGES)).encode())
    return digest.hexdigest()[:32]


def code(folder: Path = Path()) -> list[Path]:
    """Return the files of an experiment's code, relative to `folder`."""
    return sorted(file.relative_to(folder) for pattern in CODE for file in folder.glob(pattern))


def inputs(stage: str, values: Mapping[str, Any], deps: Mapping[str, str]) -> str:
    """Return a hash of everything that determines a stage's outputs, 32 hexadecimal digits.

    `values` are the parameters that the stage reads; `deps` has the MD5 of each input by path.
    """
    text = json.dumps([stage, values, deps], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def dvc_experiment() -> dict[str, str]:
    """Return DVC's name for the running experiment and its baseline commit, as tags.

    The mapping is empty outside `dvc exp run`.
    """
    names = {"dvc.exp_name": "DVC_EXP_NAME", "dvc.baseline_rev": "DVC_EXP_BASELINE_REV"}
    return {tag: os.environ[name] for tag, name in names.items() if os.environ.get(name)}
